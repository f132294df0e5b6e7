"""From an op's answer to the caller: small results ride in the answer, bytes come by the agent's bulk stream.

Back-pressure is end to end: the next piece is read from the agent only when the sink has taken the last one. What
arrives is whole or an error: a stream that ends early is `Torn`, and the caller's connection is cut.
"""

import re
from typing import Protocol

import trio
from attrs import field, frozen

from jobd.core import Core
from jobd.errors import (
    AgentUnavailable,
    AnalysisFailed,
    FileMissing,
    Invalid,
    JobdError,
    NoFrame,
    NotFound,
    RangeNotSatisfiable,
    TooLarge,
)
from jobd.link import Op
from schemas.codec import Json, dumps, to_data
from schemas.link import Answer, BulkReply

PIECE_BYTES = 256 * 1024
MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.-]+)?", re.ASCII)

ERRORS: dict[str, type[JobdError]] = {
    "no_frame": NoFrame,
    "not_found": FileMissing,
    "range": RangeNotSatisfiable,
    "unknown_method": NotFound,
}


class Torn(JobdError):
    """The bytes ended before they were all there; what was delivered must not be used."""

    code, status = "torn", 502
    sentence = "The data ended before it was complete; ask again."


@frozen
class Head:
    """What is said before the bytes."""

    type: str
    bytes: int  # -1 while nobody knows
    serial: int = 0  # of the run that it is about, if any
    meta: object = None


class Sink(Protocol):
    """Where an answer goes: `begin` once, then the bytes."""

    async def begin(self, head: Head) -> None:
        """Nothing can be taken back from here on."""

    async def write(self, data: bytes) -> None:
        """Take the next piece; returns when there is room for more."""


@frozen
class Collected:
    """A sink in memory, for answers that are bounded and wanted whole."""

    head: list[Head] = field(factory=list)
    pieces: list[bytes] = field(factory=list)

    async def begin(self, head: Head) -> None:
        """Keep the head."""
        self.head.append(head)

    async def write(self, data: bytes) -> None:
        """Keep the piece."""
        self.pieces.append(data)


async def deliver(core: Core, op: Op, sink: Sink, serial: int) -> bool:
    """Wait for the answer and hand it on; False when the link was lost before anything was delivered."""
    answer = await op.wait_answer()
    if answer is None:
        return False
    if answer.error is not None:
        raise _error(answer)
    if answer.bytes is None:
        data = dumps(answer.result).encode()
        await sink.begin(Head("application/json", len(data), serial))
        await sink.write(data)
        return True
    if answer.bytes > core.config.requests.answer_bytes_max:
        raise TooLarge(f"It has {answer.bytes} bytes.", limit=core.config.requests.answer_bytes_max)
    if answer.bytes == 0:
        await sink.begin(_head(answer, 0, serial))
        return True
    return await _relay(core, op, answer.bytes, _head(answer, answer.bytes, serial), sink)


def small(answer: Answer) -> Json:
    """The result of an answer that must not come by bulk; raises JobdError."""
    if answer.error is not None:
        raise _error(answer)
    if answer.bytes is not None:
        raise AnalysisFailed("It answered with more than may be asked for here.")
    return answer.result


def _head(answer: Answer, length: int, serial: int) -> Head:
    """The type is the agent's word, and goes into a header."""
    kind = answer.type if MEDIA_TYPE.fullmatch(answer.type) else "application/octet-stream"
    return Head(kind, length, serial, answer.result)


async def _relay(core: Core, op: Op, left: int, head: Head, sink: Sink) -> bool:
    stall_s = core.config.agents.stall_s
    stream = None
    with trio.move_on_after(stall_s):
        stream = await op.wait_stream()
    if stream is None:
        if op.lost:
            return False
        raise AgentUnavailable("It announced data and did not send it.")
    try:
        with trio.fail_after(stall_s):
            await stream.send_all((dumps(to_data(BulkReply())) + "\n").encode())
        await sink.begin(head)
        while left:
            with trio.fail_after(stall_s):
                piece = await stream.receive_some(min(left, PIECE_BYTES))
            if not piece:
                raise Torn
            left -= len(piece)
            await sink.write(bytes(piece))
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        raise Torn from None
    return True


def _error(answer: Answer) -> JobdError:
    if answer.error == "bad_argument":
        return Invalid(answer.text, field="arguments")
    return ERRORS.get(answer.error or "", AnalysisFailed)(answer.text, reason=answer.error)
