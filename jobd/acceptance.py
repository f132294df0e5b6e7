"""From a decoded run request to the record of a run: the checks against the code, and the input hash.

Input hash = SHA-256 over code, its version, mode, resources and canonical inputs (api.md); equal hash, equal run.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from jobd.clusters import SPARE_S, Cluster, Site, Size
from jobd.codes import Code
from jobd.errors import Invalid
from jobd.store import Blob
from schemas import codec
from schemas.api import Input, RunRequest
from schemas.records import Execution, Instant, LibraryRecord, Limits, Pending, RunRecord, Slots, StoredInput

Library = Mapping[str, LibraryRecord]


def draft(
    codes: Mapping[str, Code], sites: Mapping[str, Site], ask: RunRequest, library: Library, now: Instant
) -> tuple[RunRecord, list[Blob]]:
    """The record of the run that is asked for, without owner, serial and order yet; raises Invalid. `sites` are the
    clusters, by name.

    Names of library files are resolved here, once: what happens to the names later does not touch the run.
    """
    site = _site(sites, ask)
    code = (site.codes if site else codes).get(ask.code)
    if code is None:
        offered = ", ".join(site.codes if site else codes)
        raise Invalid(f"There is no code '{ask.code}' here; there are: {offered}.", field="code")
    if ask.mode not in code.modes:
        raise Invalid(f"'{ask.code}' has the modes {', '.join(code.modes)}.", field="mode")
    blobs, inputs = _inputs(code, ask.inputs, library)
    slots, limits = _slots(code, ask), _limits(code, ask)
    execution = Execution(
        command=code.command(ask.mode, slots.cores),
        environment=code.environment,
        limits=code.run_limits(ask.mode, limits),
        worker=code.worker(),
        progress_s=code.analysis.progress_s if code.analysis else 1.0,
    )
    if site:
        slots, limits, execution = _submitted(site.cluster, ask, slots, limits, execution)
    record = RunRecord(
        user="",
        job="",
        serial=0,
        order=0,
        code=code.name,
        code_version=code.version,
        mode=ask.mode,
        input_hash=_input_hash(code, ask, slots, inputs),
        inputs=inputs,
        slots=slots,
        limits=limits,
        execution=execution,
        state=Pending(now),
        timeline=(),
        idempotency_key=ask.idempotency_key,
        image=code.docker.image if code.docker else "",
        place=site.cluster.name if site else "local",
    )
    return record, blobs


def _input_hash(code: Code, ask: RunRequest, slots: Slots, inputs: tuple[StoredInput, ...]) -> str:
    hashed = {
        "code": [code.name, code.version],
        "mode": ask.mode,
        "slots": [slots.cores, slots.memory_bytes],
        "inputs": {each.path: each.sha256 for each in inputs},
    }
    if ask.batch is not None:
        hashed["batch"] = codec.to_data(ask.batch)
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def _site(sites: Mapping[str, Site], ask: RunRequest) -> Site | None:
    if ask.batch is None:
        return None
    if ask.batch.cluster not in sites:
        raise Invalid(f"The clusters are: {', '.join(sites) or 'none'}.", field="batch.cluster")
    return sites[ask.batch.cluster]


def _submitted(
    cluster: Cluster, ask: RunRequest, slots: Slots, limits: Limits, execution: Execution
) -> tuple[Slots, Limits, Execution]:
    """What a run is on a cluster: its scheduler holds memory and processes, and its cores are those of all tasks. Who
    asks for no time gets what the code or the partition allows, whichever is less."""
    wanted = ask.batch
    assert wanted is not None
    most_s = cluster.run_s_max(wanted.partition)
    if ask.limits.run_s is None:
        limits = evolve(limits, run_s=min(limits.run_s, most_s))
    size = Size(slots.cores, slots.memory_bytes, limits.run_s)
    cluster.check(wanted, size)
    execution = evolve(
        execution,
        command=cluster.command(wanted, ask.code, execution.command),
        limits=evolve(execution.limits.in_container(), run_s=min(limits.run_s, most_s - SPARE_S)),
        batch=cluster.batch(wanted, ask.code, size),
    )
    return Slots(slots.cores * wanted.tasks, slots.memory_bytes * wanted.nodes), limits, execution


def _inputs(code: Code, inputs: Mapping[str, Input], library: Library) -> tuple[list[Blob], tuple[StoredInput, ...]]:
    for path in code.inputs.required:
        if path not in inputs:
            raise Invalid(f"'{code.name}' needs the input file '{path}'.", field=f"inputs.{path}")
    if len(inputs) > code.inputs.files_max:
        raise Invalid(f"'{code.name}' takes at most {code.inputs.files_max} input files.", field="inputs")
    for path in inputs:
        parents = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 1)]
        if any(parent in inputs for parent in parents):
            raise Invalid("A file cannot lie below another file.", field=f"inputs.{path}")
    blobs, stored, total = [], [], 0
    for path, each in sorted(inputs.items()):
        if each.library is not None:
            stored.append(_resolved(path, each.library, library))
            continue
        encoded = (each.text if each.text is not None else canonical(each.json)).encode()
        total += len(encoded)
        digest = hashlib.sha256(encoded).hexdigest()
        blobs.append(Blob(digest, encoded))
        stored.append(StoredInput(path, len(encoded), digest))
    if total > code.inputs.bytes_max:
        raise Invalid(f"The inputs have {total} bytes; '{code.name}' takes {code.inputs.bytes_max}.", field="inputs")
    return blobs, tuple(stored)


def _resolved(path: str, name: str, library: Library) -> StoredInput:
    if name not in library:
        raise Invalid(f"The library has no file '{name}'.", field=f"inputs.{path}.library")
    file = library[name]
    return StoredInput(path, file.bytes, file.sha256, name)


def canonical(data: Any) -> str:
    """JSON whose keys are in order: the same value always makes the same text, and so the same input hash."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)


def _slots(code: Code, ask: RunRequest) -> Slots:
    mode = code.modes[ask.mode]
    cores = ask.resources.cores or mode.cores
    if cores > mode.cores_max:
        raise Invalid(
            f"'{code.name}' takes at most {mode.cores_max} cores in mode {ask.mode}, not {cores}.",
            field="resources.cores",
        )
    memory = ask.resources.memory_bytes or mode.limits.memory_bytes
    if memory > mode.limits.memory_bytes:
        raise Invalid(
            f"'{code.name}' takes at most {mode.limits.memory_bytes} bytes in mode {ask.mode}, not {memory}.",
            field="resources.memory_bytes",
        )
    return Slots(cores, memory)


def _limits(code: Code, ask: RunRequest) -> Limits:
    most = code.modes[ask.mode].limits
    asked = ask.limits
    return Limits(
        queue_s=min(asked.queue_s or most.queue_s, most.queue_s),
        start_s=min(asked.start_s or most.start_s, most.start_s),
        run_s=min(asked.run_s or most.run_s, most.run_s),
        heartbeat_s=min(asked.heartbeat_s or most.heartbeat_s, most.heartbeat_s),
    )
