"""What jobctl prints, all of it. Nothing else in jobctl writes to the terminal.

Names, causes, logs and problem texts come from users and their codes: every text goes through `plain`, so none of it
can steer a terminal, and nothing is ever read as rich markup. On a terminal there are colours and tables; in a pipe a
line is a line, a table's cells are parted by tabs, and nothing is wrapped or cut.
"""

import codecs
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

Part = str | tuple[str, str]  # a text, or a text and its style

STYLES = {"running": "cyan", "completed": "green", "failed": "red", "canceled": "yellow", "ok": "green"}
EMPTY = "-"

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC and the other strings: titles
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"  # the short ones
)
_UNFINISHED = re.compile(r"(?:[\x1b\x90\x98\x9b\x9d-\x9f][^\x1b]{0,255}|\r)\Z")
# What is left of them, and what turns the direction of a text or ends a line where the eye sees none.
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})
_CONTROLS |= dict.fromkeys([0x61C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def plain(text: str) -> str:
    """The text without anything that steers a terminal; lines and tabs are kept."""
    return _SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS)


def flat(text: str) -> str:
    """The text, plain and on one line."""
    return " ".join(plain(text).split())


def bytes_of(pieces: Iterable[bytes]) -> None:
    """A log: its raw bytes, or, where somebody looks at it, its plain text."""
    if not sys.stdout.isatty():
        for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return
    for text in plain_pieces(pieces):
        sys.stdout.write(text)
        sys.stdout.flush()


def plain_pieces(pieces: Iterable[bytes]) -> Iterator[str]:
    """Bytes as plain text; what is torn between two pieces, a character or a control sequence, is put together."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for piece in pieces:
        text = _SEQUENCE.sub("", rest + decoder.decode(piece))
        torn = _UNFINISHED.search(text)
        end = torn.start() if torn else len(text)
        rest = text[end:]
        yield plain(text[:end])
    yield plain(rest + decoder.decode(b"", final=True))


def console(stream: TextIO) -> Console:
    """A rich console on a stream; colours only on a terminal, whatever the environment says."""
    tty = stream.isatty()
    return Console(
        file=stream,
        force_terminal=tty,
        color_system="auto" if tty else None,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
    )


def line(*parts: Part, stream: TextIO | None = None) -> None:
    """One line of texts; a text of many lines stays so."""
    stream = stream or sys.stdout
    pairs = [(plain(part), "") if isinstance(part, str) else (plain(part[0]), part[1]) for part in parts]
    if stream.isatty():
        console(stream).print(Text.assemble(*pairs))
    else:
        stream.write("".join(text for text, _ in pairs) + "\n")
        stream.flush()


def note(*parts: Part) -> None:
    """A line beside the result, on stderr."""
    line(*parts, stream=sys.stderr)


def fields(**values: object) -> None:
    """A line for each value that is there, and never more: no value can look like another's line."""
    for name, value in values.items():
        if value not in (None, ""):
            line((f"  {name:9} ", "dim"), flat(str(value)))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table: for the eye on a terminal, for `cut` and `awk` in a pipe."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (headers, *cells):
            line("\t".join(row))
        return
    grid = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for column in grid.columns:
        column.overflow = "fold"
    for row in cells:
        grid.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    console(sys.stdout).print(grid, soft_wrap=False)


def _cell(value: object) -> str:
    if value is None:
        return EMPTY
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, (tuple, list, dict)):
        return ",".join(_cell(each) for each in value) or EMPTY
    return flat(str(value)) or EMPTY


def document(data: Any) -> None:
    """Plain data as one line of JSON, in ASCII: the escapes of JSON are the only ones in it."""
    line(json.dumps(data, allow_nan=False, separators=(",", ":")))
