"""The analysis worker of the code "lammps": answers questions about a run from the files LAMMPS writes.

Place: an agent starts it once and keeps it; a question is one line of JSON on stdin, an answer one line of JSON on
stdout, followed for a picture by a newline and exactly as many raw bytes as the header's "bytes" says.

    {"id": 7, "method": "frame", "run": "/abs/run", "args": {"view": "atoms", "index": "latest", "format": "png"}}
    {"id": 7, "type": "image/png", "bytes": 5123, "result": {"view": "atoms", "index": 12, "count": 13, ...}}

Invariants:
- Every question line gets exactly one answer, in order; no question and no file of a run ends the worker. The end of
  stdin does.
- Only answers go to stdout: what a library prints goes to stderr.
- The run's files are read as dump.py, thermo.py and growing.py say: bounded, no links, only whole records.
"""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, BinaryIO

import picture
from dump import Dump
from growing import UnanswerableError
from thermo import ThermoLog

QUESTION_BYTES_MAX = 1 << 20
RUNS_MAX = 4  # indexes kept, least recently asked for dropped first
FRAME_ARGS = {"view", "index", "format", "width"}
JSON_VALUES_MAX = 4_000_000
WIDTH_MIN, WIDTH_MAX, WIDTH_DEFAULT = 64, 2000, 640


def bad(text: str) -> UnanswerableError:
    """Return the refusal of a question that asks for what there cannot be."""
    return UnanswerableError("bad_argument", text)


@dataclass
class Answer:
    """What goes back: a JSON result, and perhaps a picture."""

    result: dict[str, Any]
    body: bytes | None = None


class Run:
    """What is known of one run directory."""

    def __init__(self, path: str) -> None:
        self.dump = Dump(path)
        self.log = ThermoLog(path)

    def progress(self) -> Answer:
        """How far the run is. A dump that cannot be read does not hide what the log says."""
        problem = ""
        try:
            self.dump.update()
            problem = self.dump.damage
        except UnanswerableError as wrong:
            problem = wrong.text
        self.log.update()
        steps = self.dump.steps
        result = self.log.progress((steps[0], steps[-1]) if steps else None)
        result["frames"] = {"atoms": self.dump.count, "thermo": self.log.rows}
        if problem:
            result["problem"] = problem
        return Answer(result)

    def frame(self, args: dict[str, Any]) -> Answer:
        """Return one frame of one view."""
        if args.keys() - FRAME_ARGS:
            raise bad(f"A frame takes {', '.join(sorted(FRAME_ARGS))}, nothing else.")
        index = args.get("index", "latest")
        if index != "latest" and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
            raise bad('The index must be "latest" or a whole number from 0 on.')
        view, form = args.get("view"), args.get("format", "json")
        if form not in ("json", "png"):
            raise bad('The format must be "json" or "png".')
        if form == "json" and "width" in args:
            raise bad("Only a png has a width.")
        if view == "atoms":
            return self._atoms(index, form, args.get("width", WIDTH_DEFAULT))
        if view == "thermo":
            if form == "png":
                raise bad("The view thermo has no png.")
            return self._thermo(index)
        raise bad('The view must be "atoms" or "thermo".')

    def _atoms(self, index: int | str, form: str, width: Any) -> Answer:
        if isinstance(width, bool) or not isinstance(width, int) or not WIDTH_MIN <= width <= WIDTH_MAX:
            raise bad(f"The width must be a whole number from {WIDTH_MIN} to {WIDTH_MAX}.")
        self.dump.update()
        where = position(index, self.dump.count, "frame", self.dump.behind, self.dump.damage)
        meta = {"view": "atoms", "index": where, "count": self.dump.count}
        if form == "json":
            return Answer(meta | self.dump.frame(where, JSON_VALUES_MAX).as_json())
        frame = self.dump.frame(where)
        body, height = picture.draw(frame, width)
        return Answer(meta | {"step": frame.step, "width": width, "height": height}, body)

    def _thermo(self, index: int | str) -> Answer:
        self.log.update()
        where = position(index, self.log.rows, "row", self.log.behind)
        meta = {"view": "thermo", "index": where, "count": self.log.rows}
        return Answer(meta | {"columns": self.log.series(where)})


def position(index: int | str, count: int, noun: str, behind: int, damage: str = "") -> int:
    """Return which one is meant, by its number; refuse one that is not there."""
    if isinstance(index, int) and index < count:
        return index
    if damage:
        raise UnanswerableError("unreadable", damage)
    if behind:
        text = f"The {noun}s are still being counted: {count} so far, {behind >> 20} MiB to go. Ask again."
    elif not count:
        text = f"The run has written no {noun} yet."
    elif index == "latest":
        return count - 1
    else:
        text = f"There is no {noun} {index}: the run has {count} {noun}{'s' if count > 1 else ''} so far."
    raise UnanswerableError("no_frame", text)


class Worker:
    """Answers questions; keeps what it learned of the runs it was asked about last."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def answer(self, line: bytes) -> bytes:
        """Return the answer to one line, header and body; whatever happens there is one."""
        number: int | None = None
        try:
            question = parse(line)
            number = id_of(question)
            return encode(number, self._carry_out(question))
        except UnanswerableError as wrong:
            code, text = wrong.code, wrong.text
        except Exception as wrong:  # hostile data makes libraries raise anything, MemoryError included
            print(f"lammps worker: {type(wrong).__name__}: {wrong}"[:1000], file=sys.stderr, flush=True)
            code, text = "unreadable", f"The files of the run cannot be read ({type(wrong).__name__})."
        return header_line({"id": number, "error": {"code": code, "text": text}})

    def _carry_out(self, question: dict[str, Any]) -> Answer:
        method, path, args = question.get("method"), question.get("run"), question.get("args", {})
        if method not in ("progress", "frame"):
            raise UnanswerableError("unknown_method", "This code answers progress and frame.")
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise bad("A question names its run by an absolute path.")
        if not isinstance(args, dict):
            raise bad("The arguments must be an object.")
        run = self._run(path)
        return run.progress() if method == "progress" else run.frame(args)

    def _run(self, path: str) -> Run:
        run = self._runs.get(path) or Run(path)
        self._runs[path] = run
        self._runs.move_to_end(path)
        while len(self._runs) > RUNS_MAX:
            self._runs.popitem(last=False)
        return run


def encode(number: int, answer: Answer) -> bytes:
    """Return the answer as it goes over the wire."""
    if answer.body is None:
        return header_line({"id": number, "result": answer.result})
    header = {"id": number, "type": "image/png", "bytes": len(answer.body), "result": answer.result}
    return header_line(header) + answer.body


def header_line(header: dict[str, Any]) -> bytes:
    """Return one line of strict JSON."""
    return json.dumps(header, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def parse(line: bytes) -> dict[str, Any]:
    """Return the question of one line."""
    if len(line) > QUESTION_BYTES_MAX:
        raise bad(f"A question has at most {QUESTION_BYTES_MAX} bytes.")
    try:
        question = json.loads(line)
    except (ValueError, RecursionError):
        raise bad("A question is one line of JSON.") from None
    if not isinstance(question, dict):
        raise bad("A question is a JSON object.")
    return question


def id_of(question: dict[str, Any]) -> int:
    """Return the number that the answer carries."""
    number = question.get("id")
    if isinstance(number, bool) or not isinstance(number, int) or abs(number) >= 1 << 63:
        raise bad("A question has an id, a whole number.")
    return number


def questions(source: BinaryIO) -> Any:
    """Yield each line; of one that is too long only the head, once its end was seen."""
    while line := source.readline(QUESTION_BYTES_MAX + 2):
        rest = line
        while len(rest) > QUESTION_BYTES_MAX + 1 and not rest.endswith(b"\n"):
            rest = source.readline(QUESTION_BYTES_MAX + 2)
        yield line.removesuffix(b"\n")


def main() -> None:
    """Answer until stdin ends or nobody reads."""
    answers_fd = os.dup(1)
    os.dup2(2, 1)
    worker = Worker()
    with os.fdopen(answers_fd, "wb") as answers:
        try:
            for line in questions(sys.stdin.buffer):
                answers.write(worker.answer(line))
                answers.flush()
        except BrokenPipeError:
            os._exit(0)  # what is buffered has nobody to go to


if __name__ == "__main__":
    main()
