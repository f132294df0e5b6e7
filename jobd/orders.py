"""The orders about a run, and the transfers by which its agent fetches the inputs.

Both are made from the run's record alone, so they are the same after a restart of jobd, when the agent may still fetch.
"""

import hashlib

from jobd.places import parse
from schemas.ids import new_id
from schemas.link import Epoch, InputFile, Start, Stop
from schemas.records import RunRecord, StoredInput


def start_order(run: RunRecord) -> Start:
    """Everything that the agent must know to execute this epoch."""
    execution = run.execution
    is_alone = parse(run.place).role == "run"  # in a container, and another agent is asked for its progress
    return Start(
        epoch=Epoch(run.job, run.serial),
        command=execution.command,
        environment=execution.environment,
        inputs=tuple(InputFile(each.path, each.bytes, each.sha256, transfer_id(run, each)) for each in run.inputs),
        limits=execution.limits.in_container() if is_alone else execution.limits,
        worker=None if is_alone else execution.worker,
        progress_s=execution.progress_s,
        batch=execution.batch,
    )


def stop_order(run: RunRecord) -> Stop:
    """End this epoch, with the grace that its code has."""
    return Stop(Epoch(run.job, run.serial), run.execution.limits.grace_s)


def transfer_id(run: RunRecord, file: StoredInput) -> str:
    """The id of the transfer of one input; the agent's token, not this id, is what proves a right to it."""
    digest = hashlib.sha256(f"{run.job}.{run.serial}.{file.path}".encode()).digest()
    return new_id("t", int.from_bytes(digest[:6], "big"))
