"""Bytes in quantity: one bulk connection to jobd for each input file and each large answer.

The agent's first line is a BulkHeader with its token, jobd's first line a BulkReply; then raw bytes one way, with the
socket's own back-pressure. Nothing is framed: whoever is short of bytes closes, and the other side counts.
"""

import hashlib
import os
from collections.abc import Awaitable, Callable

import trio

from agents.answers import Content
from agents.dial import Way
from schemas import codec
from schemas.link import ALPN_BULK, HEADER_BYTES_MAX, BulkHeader, BulkReply, InputFile

PIECE_BYTES = 256 * 1024
STALL_S_MAX = 120.0  # a peer that moves no byte for so long is gone
ATTEMPTS_MAX = 5
ATTEMPT_PAUSE_S = 0.1
FETCH_S_MAX = 3600.0


class TransferFailed(Exception):
    """A file could not be moved; the text is for people."""


class Bulk:
    """The agent's bulk streams."""

    def __init__(self, way: Way) -> None:
        self._way = way

    async def push(self, transfer: str, content: Content) -> None:
        """Send a content. If its file gives fewer bytes than announced, the connection is closed short, and the
        receiver sees that something is missing."""
        async with _Conversation(self._way) as conversation:
            await conversation.begin(BulkHeader(self._way.token(), transfer, bytes=content.length))
            offset = 0
            while offset < content.length:
                size = min(PIECE_BYTES, content.length - offset)
                piece = await trio.to_thread.run_sync(content.read, size, offset, abandon_on_cancel=True)
                if not piece:
                    raise TransferFailed("the file became shorter while it was read")
                await conversation.send(piece)
                offset += len(piece)

    async def fetch(self, file: InputFile, target: int, wait_up: Callable[[], Awaitable[None]]) -> None:
        """Get an input into an open file, whole and verified, resuming after a cut; raises TransferFailed.

        An attempt counts only when jobd was there: `wait_up` waits for the link, because a restart of jobd ends
        nothing.
        """
        with trio.move_on_after(FETCH_S_MAX):
            received = _Received(target)
            failure = ""
            for attempt in range(ATTEMPTS_MAX):
                await trio.sleep(attempt * ATTEMPT_PAUSE_S)
                await wait_up()
                try:
                    await self._fetch_rest(file, received)
                except (OSError, trio.BrokenResourceError, trio.TooSlowError, TransferFailed) as error:
                    failure = str(error) or type(error).__name__
                    continue
                if received.digest.hexdigest() == file.sha256:
                    return
                failure = "it arrived with other contents than announced"
                received = _Received(target)
            raise TransferFailed(f"input {file.path} could not be fetched: {failure}")
        raise TransferFailed(f"input {file.path} could not be fetched in {FETCH_S_MAX:g} s")

    async def _fetch_rest(self, file: InputFile, received: "_Received") -> None:
        offset = received.bytes
        async with _Conversation(self._way) as conversation:
            reply = await conversation.begin(BulkHeader(self._way.token(), file.transfer, offset=offset))
            if reply.bytes != file.bytes - offset:
                raise TransferFailed(f"jobd offered {reply.bytes} bytes where {file.bytes - offset} are missing")
            while received.bytes < file.bytes:
                piece = await conversation.receive(file.bytes - received.bytes)
                await trio.to_thread.run_sync(received.add, piece)


class _Received:
    """What has arrived of an input: written, and hashed on the way."""

    def __init__(self, descriptor: int) -> None:
        self.bytes = 0
        self.digest = hashlib.sha256()
        self._descriptor = descriptor

    def add(self, piece: bytes) -> None:
        """In a thread."""
        written = 0
        while written < len(piece):
            written += os.pwrite(self._descriptor, piece[written:], self.bytes + written)
        self.digest.update(piece)
        self.bytes += len(piece)


class _Conversation:
    """One connection: the two header lines, then bytes."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._rest = b""  # what came behind the reply line

    async def __aenter__(self) -> "_Conversation":
        self._stream = await self._way.dial(ALPN_BULK)
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self._stream)

    async def begin(self, header: BulkHeader) -> BulkReply:
        with trio.fail_after(STALL_S_MAX):
            await self._stream.send_all(codec.dumps(codec.to_data(header)).encode() + b"\n")
            line = b""
            while b"\n" not in line:
                piece = await self._stream.receive_some(HEADER_BYTES_MAX)
                line += piece
                if not piece or len(line) > 2 * HEADER_BYTES_MAX:
                    raise TransferFailed("jobd gave no reply")
        line, self._rest = line.split(b"\n", 1)
        try:
            reply: BulkReply = codec.decode(line, BulkReply, HEADER_BYTES_MAX)
        except codec.CodecError as error:
            raise TransferFailed(f"jobd's reply is malformed: {error}") from None
        if reply.error:
            raise TransferFailed(reply.error)
        return reply

    async def receive(self, bytes_max: int) -> bytes:
        piece: bytes | bytearray
        piece, self._rest = self._rest[:bytes_max], self._rest[bytes_max:]
        if not piece:
            with trio.fail_after(STALL_S_MAX):
                piece = await self._stream.receive_some(min(PIECE_BYTES, bytes_max))
        if not piece:
            raise TransferFailed("the connection was cut")
        return bytes(piece)

    async def send(self, piece: bytes) -> None:
        with trio.fail_after(STALL_S_MAX):
            await self._stream.send_all(piece)
