"""The start order of a run, and the transfers by which its agent fetches the inputs.

Both are made from the run's record alone, so they are the same after a restart of jobd, when the agent may still fetch.
"""

import hashlib

from jobd.codes import Code
from schemas.ids import new_id
from schemas.link import Epoch, InputFile, Start
from schemas.records import RunRecord, StoredInput


def start_order(code: Code, run: RunRecord) -> Start:
    """Everything that the agent must know to execute this epoch."""
    return Start(
        epoch=Epoch(run.job, run.serial),
        command=code.command(run.mode, run.slots.cores),
        environment=code.environment,
        inputs=tuple(InputFile(each.path, each.bytes, each.sha256, transfer_id(run, each)) for each in run.inputs),
        limits=code.run_limits(run.mode, run.limits),
        worker=code.worker(),
        progress_s=code.analysis.progress_s if code.analysis else 1.0,
    )


def transfer_id(run: RunRecord, file: StoredInput) -> str:
    """The id of the transfer of one input; the agent's token, not this id, is what proves a right to it."""
    digest = hashlib.sha256(f"{run.job}.{run.serial}.{file.path}".encode()).digest()
    return new_id("t", int.from_bytes(digest[:6], "big"))
