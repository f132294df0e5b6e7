"""Everything that is wrong with a configuration and its codes, not only what is found first.

The codec stops at the first fault. So that one is noted, mended in a copy, and the rest is read again, until all of it
is understood. What the daemon checks beyond that is asked of its own functions.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobd.codes import Code, load_codes
from jobd.config import Config, ConfigError, load, read_toml
from jobd.daemon import check_paths
from jobd.tls import server_context
from schemas import codec
from schemas.codec import CodecError

FAULTS_MAX = 1000
KEY_CHARS_MAX = 64  # of an unknown key, as the codec names it


def problems(path: Path) -> list[CodecError]:
    """All problems of a configuration and of the codes that it names."""
    found = [*_faults(path, Config)]
    if found:
        return found
    config = load(path)
    for check in (check_paths, _tls):
        try:
            check(config)
        except ConfigError as error:
            found.append(CodecError("", str(error)))
    directory = Path(config.codes)
    if not directory.is_dir():
        return [*found, CodecError("codes", f"there is no directory {directory}")]
    return [*found, *_problems_of_codes(directory, prefix(config))]


def _tls(config: Config) -> None:
    if config.tls:
        server_context(config.tls)


def prefix(config: Config) -> str:
    """What {prefix} stands for in the codes' descriptions."""
    return config.codes_prefix or sys.prefix


def _problems_of_codes(directory: Path, prefix: str) -> Iterator[CodecError]:
    well = True
    for path in sorted(directory.glob("*.toml")):
        for fault in _faults(path, Code):
            well = False
            whole = fault.field in ("", str(path))
            yield CodecError(str(path) if whole else f"{path}: {fault.field}", fault.problem)
    if well:
        try:
            load_codes(directory, prefix)  # what is wrong with them together
        except CodecError as error:
            yield error


def _faults(path: Path, kind: Any) -> Iterator[CodecError]:
    try:
        data = read_toml(path)
    except CodecError as error:
        yield error
        return
    except (OSError, UnicodeDecodeError) as error:
        yield CodecError(str(path), f"cannot be read: {error}")
        return
    told = set()
    for _ in range(FAULTS_MAX):
        fault = _fault(data, kind)
        if fault is None:
            return
        if fault.field not in told:  # what was taken out may be missing now
            yield fault
        told.add(fault.field)
        if not (_taken_out(data, fault.field) or _put_in(data, fault, kind)):
            return


def _fault(data: Any, kind: Any) -> CodecError | None:
    try:
        codec.from_data(data, kind)
    except CodecError as error:
        return error
    return None


def _taken_out(data: Any, field: str) -> bool:
    """Delete what a field's path names; False if it is not there."""
    if isinstance(data, dict):
        items = [(key, key[:KEY_CHARS_MAX]) for key in data]
    else:
        items = [(index, f"[{index}]") for index in range(len(data))] if isinstance(data, list) else []
    for key, word in items:
        rest = field.removeprefix(word)
        if rest == "":
            del data[key]
            return True
        if field.startswith(word) and rest[0] in ".[" and _taken_out(data[key], rest.removeprefix(".")):
            return True
    return False


def _put_in(data: Any, missing: CodecError, kind: Any) -> bool:
    """Give what is missing a value that is read as well as possible; False if there is none."""
    *parts, name = missing.field.split(".")
    place = data
    for part in parts:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict) or name in place:
        return False
    values: tuple[Any, ...] = ("x", 1, [], {})
    for place[name] in values:
        fault = _fault(data, kind)
        if fault is None or fault.field != missing.field:
            return True
    return False
