"""The agent's end of the fork server's socket: one question at a time, a pidfd with the answer."""

import array
import socket
from collections.abc import Sequence

import trio

from agents import records
from agents.records import ForkRun, ForkWorker, Refused, Request, SweepRun, Swept
from schemas import codec

ANSWER_S_MAX = 30.0

_DESCRIPTOR_BYTES = array.array("i").itemsize


class ForkServerLost(Exception):
    """The fork server is gone or stuck; the agent cannot go on, its successor will have a new one."""


class ForkRefused(Exception):
    """The fork server could not do it; one clause for people."""


class Forks:
    """Asks the fork server."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._turn = trio.Lock()

    async def fork_run(self, control: str, run_dir: str) -> int:
        """Fork the run's parent; returns its pidfd."""
        return await self._fork(ForkRun(control, run_dir), ())

    async def fork_worker(self, request: ForkWorker, pipes: Sequence[int]) -> int:
        """Execute an analysis worker on stdin, stdout and stderr; returns its pidfd."""
        return await self._fork(request, pipes)

    async def sweep(self, run: str, main: records.Main | None) -> int:
        """One pass over what a run left behind; returns how many processes there still were."""
        reply, _ = await self._ask(SweepRun(run, main), ())
        assert isinstance(reply, Swept)
        return reply.found

    async def _fork(self, request: ForkRun | ForkWorker, pipes: Sequence[int]) -> int:
        reply, pidfd = await self._ask(request, pipes)
        if isinstance(reply, Refused) or pidfd is None:
            raise ForkRefused(reply.text if isinstance(reply, Refused) else "out of file descriptors")
        return pidfd

    async def _ask(self, request: Request, passed: Sequence[int]) -> tuple[records.Reply, int | None]:
        packet = codec.encode(request).encode()
        if len(packet) > records.PACKET_BYTES_MAX:
            return Refused("its command and environment are too large"), None
        descriptors = array.array("i", passed)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if passed else []
        async with self._turn:
            # A question that was asked is always heard out, or the next would get its answer.
            with trio.CancelScope(shield=True), trio.move_on_after(ANSWER_S_MAX):
                try:
                    await self._socket.sendmsg([packet], rights)
                    answer, ancillary, _, _ = await self._socket.recvmsg(
                        records.PACKET_BYTES_MAX, socket.CMSG_LEN(_DESCRIPTOR_BYTES)
                    )
                except OSError as error:
                    raise ForkServerLost(str(error)) from None
                if answer:
                    return codec.decode(answer, records.Reply, records.PACKET_BYTES_MAX), _descriptor(ancillary)
        raise ForkServerLost("it does not answer")


def _descriptor(ancillary: Sequence[tuple[int, int, bytes]]) -> int | None:
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return array.array("i", content[:_DESCRIPTOR_BYTES])[0]
    return None
