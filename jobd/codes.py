"""The codes that the site offers: each is a TOML file that says how to run, limit and analyse it.

docs/describing-a-code.md tells how to write one. Placeholders in commands and environments: {cores}, {memory_bytes},
{here} (the directory of the TOML file), {prefix} (the site's codes_prefix) and {run_dir} (filled in by the agent).
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from jobd.config import read_toml
from schemas import codec
from schemas.codec import at_most, between, checked, refuse
from schemas.ids import check_name, check_path
from schemas.link import DISK_BYTES_DEFAULT, DISK_FILES_DEFAULT, DISK_RESERVE_BYTES_DEFAULT, RunLimits, Worker
from schemas.records import Limits, Mode

BATCH_LIMITS = {"queue_s": 30 * 86400.0, "run_s": 86400.0, "heartbeat_s": 7 * 86400.0}


@frozen
class ModeLimits:
    """The four time limits, and what the run's parent enforces. A request may lower the times, never raise them."""

    queue_s: float = field(default=86400.0, validator=between(0.1, 30 * 86400))
    start_s: float = field(default=60.0, validator=between(0.1, 86400))
    run_s: float = field(default=3600.0, validator=between(0.1, 30 * 86400))
    heartbeat_s: float = field(default=120.0, validator=between(0.1, 7 * 86400))
    grace_s: float = field(default=5.0, validator=between(0, 600))
    memory_bytes: int = field(default=2 << 30, validator=between(1 << 20, 1 << 50))
    log_bytes: int = field(default=16 << 20, validator=between(1, 1 << 40))
    output_bytes: int = field(default=4 << 30, validator=between(1, 1 << 50))
    processes: int = field(default=256, validator=between(1, 1 << 20))
    disk_bytes: int = field(default=DISK_BYTES_DEFAULT, validator=between(1 << 20, 1 << 50))
    disk_files: int = field(default=DISK_FILES_DEFAULT, validator=between(1, 10_000_000))
    disk_reserve_bytes: int = field(default=DISK_RESERVE_BYTES_DEFAULT, validator=between(0, 1 << 50))


@frozen
class CodeMode:
    """How to run it in one mode."""

    command: tuple[str, ...]
    cores_max: int = field(default=1, validator=between(1, 1 << 20))
    cores: int = field(default=1, validator=between(1, 1 << 20))  # when the request does not say
    limits: ModeLimits = ModeLimits()


@frozen
class Inputs:
    """Which input files a run must have, and how large they may be together."""

    required: tuple[str, ...] = field(default=(), validator=checked(check_path))
    files_max: int = field(default=64, validator=between(1, 1000))
    bytes_max: int = field(default=4 << 20, validator=between(0, 1 << 40))


@frozen
class Analysis:
    """The code's analysis worker."""

    command: tuple[str, ...]
    answer_s: float = field(default=20.0, validator=between(0.01, 3600))
    progress_s: float = field(default=1.0, validator=between(0.01, 3600))
    views: tuple[str, ...] = field(default=(), validator=at_most(64))
    methods: tuple[str, ...] = field(default=("progress", "frame"), validator=at_most(64))
    compute: tuple[str, ...] = field(default=(), validator=at_most(64))  # methods that need no run


@frozen
class Image:
    """The container image of a code, where agents are in Docker."""

    image: str
    python: str = "/usr/bin/python3"  # 3.10 or newer, for the agent
    prefix: str = "/usr"  # what {prefix} stands for in the image
    here: str = "/opt/jobd/codes"  # what {here} stands for in the image
    network: str = ""  # a network of the engine for this code; empty: none at all
    gpus: int = field(default=0, validator=between(-1, 64))  # how many for a run; -1: all
    gpu_ids: tuple[str, ...] = field(default=(), validator=at_most(64))  # or exactly these
    shm_bytes: int = field(default=64 << 20, validator=between(1 << 20, 1 << 40))

    def __attrs_post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-zA-Z0-9_.:/@-]{0,250}", self.image):
            refuse("image", "must be the name of an image")
        if self.network in ("host", "container") or self.network.startswith("container:"):
            refuse("network", "must be a network of the code's own, never the host's or another container's")


@frozen
class Paths:
    """What the placeholders {prefix} and {here} stand for where a code runs."""

    prefix: str
    here: str


@frozen
class Code:
    """One simulation program."""

    name: str = field(validator=checked(check_name))
    title: str
    version: str
    modes: dict[str, CodeMode]
    environment: dict[str, str] = field(factory=dict)
    inputs: Inputs = Inputs()
    analysis: Analysis | None = None
    docker: Image | None = None

    def __attrs_post_init__(self) -> None:
        for mode in self.modes:
            if mode not in ("sequential", "parallel", "batch"):
                refuse(f"modes.{mode}", "must be sequential, parallel or batch")

    def worker(self) -> Worker | None:
        """What an agent must know to start the worker."""
        if self.analysis is None:
            return None
        return Worker(self.name, self.analysis.command, self.environment, self.analysis.answer_s)

    def command(self, mode: Mode, cores: int) -> tuple[str, ...]:
        """The command line of a run with so many cores."""
        description = self.modes[mode]
        values = {"cores": str(cores), "memory_bytes": str(description.limits.memory_bytes)}
        return tuple(_fill(word, values) for word in description.command)

    def run_limits(self, mode: Mode, limits: Limits) -> RunLimits:
        """What the run's parent enforces."""
        most = self.modes[mode].limits
        return RunLimits(
            run_s=limits.run_s,
            grace_s=most.grace_s,
            memory_bytes=most.memory_bytes,
            log_bytes=most.log_bytes,
            output_bytes=most.output_bytes,
            processes=most.processes,
            disk_bytes=most.disk_bytes,
            disk_files=most.disk_files,
            disk_reserve_bytes=most.disk_reserve_bytes,
        )


def load_codes(directory: Path, prefix: str, *, in_docker: bool = False) -> dict[str, Code]:
    """Every *.toml of the directory, by name; raises CodecError that names file and field. For Docker the placeholders
    stand for what is in the code's image, which it must then have."""
    if not directory.is_dir():
        raise codec.CodecError("codes", f"{directory} is not a directory")
    codes: dict[str, Code] = {}
    for path in sorted(directory.glob("*.toml")):
        code = load_code(path, paths_of(path, prefix, in_docker=in_docker))
        code = code if in_docker else evolve(code, docker=None)
        if code.name in codes:
            raise codec.CodecError(str(path), f"describes the code '{code.name}', which another file describes too")
        codes[code.name] = code
    return codes


def load_code(path: Path, paths: Callable[[Code], Paths]) -> Code:
    """One description, with the paths of where it runs; raises CodecError that names file and field."""
    try:
        code: Code = codec.from_data(_with_batch_limits(read_toml(path)), Code)
        there = paths(code)
    except codec.CodecError as error:
        raise codec.CodecError(f"{path}: {error.field}", error.problem) from None
    values = {"here": there.here, "prefix": there.prefix}

    def words(command: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_fill(word, values) for word in command)

    return evolve(
        code,
        environment={key: _fill(value, values) for key, value in code.environment.items()},
        modes={name: evolve(mode, command=words(mode.command)) for name, mode in code.modes.items()},
        analysis=code.analysis and evolve(code.analysis, command=words(code.analysis.command)),
    )


def paths_of(path: Path, prefix: str, *, in_docker: bool) -> Callable[[Code], Paths]:
    """Where the codes of this jobd's own hosts are: in their images, or on this machine beside their descriptions."""
    return _in_image if in_docker else lambda _: Paths(prefix, str(path.resolve().parent))


def _in_image(code: Code) -> Paths:
    if code.docker is None:
        raise codec.CodecError("docker", "is missing: every code needs an image where agents are in Docker")
    return Paths(code.docker.prefix, code.docker.here)


def _with_batch_limits(data: dict[str, Any]) -> dict[str, Any]:
    """The time limits that mode batch has when a description does not say: a cluster's queue is long, and so is the
    time for which nothing may be heard, because a login there ends and what runs goes on."""
    batch = data.get("modes", {}).get("batch") if isinstance(data.get("modes"), dict) else None
    if isinstance(batch, dict) and isinstance(batch.setdefault("limits", {}), dict):
        batch["limits"] = {**BATCH_LIMITS, **batch["limits"]}
    return data


def _fill(word: str, values: Mapping[str, Any]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word
