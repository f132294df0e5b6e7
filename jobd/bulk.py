"""Bulk streams of agents: they fetch inputs, and bring the bytes of their answers.

The first line is a BulkHeader with the agent's token; jobd answers one line, BulkReply; then bytes flow one way.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import trio

from jobd.agent import Agent
from jobd.core import Core
from jobd.gateway import Identify
from jobd.orders import transfer_id
from schemas import codec
from schemas.link import HEADER_BYTES_MAX, BulkHeader, BulkReply
from schemas.records import StoredInput

PIECE_BYTES = 256 * 1024


async def serve_bulk(core: Core, identify: Identify, stream: trio.abc.Stream) -> None:
    """One bulk connection; the gateway closes the stream afterwards."""
    try:
        with trio.fail_after(core.config.agents.unauthenticated_s):
            header = codec.decode(await _line(stream), BulkHeader, HEADER_BYTES_MAX)
        agent = identify(header.token)
        if agent is None:
            await _reply(core, stream, BulkReply(error="unauthorized"))
        elif op := agent.ops.get(header.transfer):
            op.connected(stream)
            await op.over.wait()
        else:
            await _give(core, agent, header, stream)
    except (codec.CodecError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
        return  # the agent asks again if it still wants it


async def _line(stream: trio.abc.Stream) -> bytes:
    """The first line, byte by byte at its end: what follows it belongs to the bytes."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = await stream.receive_some(1)
        if not byte or len(line) > HEADER_BYTES_MAX:
            raise codec.CodecError("", f"no header line of at most {HEADER_BYTES_MAX} bytes")
        line += byte
    return bytes(line)


async def _give(core: Core, agent: Agent, header: BulkHeader, stream: trio.abc.Stream) -> None:
    """Send an input of one of the agent's own open runs, from the offset that it already has."""
    for run in core.jobs.runs_on(agent.record.id):
        for each in run.record.inputs:
            if transfer_id(run.record, each) == header.transfer:
                await _reply(core, stream, BulkReply(max(0, each.bytes - header.offset)))
                async with aclosing(_content(core, each, header.offset)) as pieces:
                    async for piece in pieces:
                        with trio.fail_after(core.config.agents.stall_s):
                            await stream.send_all(piece)
                return
    await _reply(core, stream, BulkReply(error="no such transfer"))


async def _content(core: Core, file: StoredInput, offset: int) -> AsyncGenerator[bytes, None]:
    if file.library:
        async with aclosing(core.files.read(file.sha256, offset)) as pieces:
            async for piece in pieces:
                yield piece
    else:
        content = await core.world.hop(core.store.disk.blob, file.sha256) or b""
        for start in range(offset, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]


async def _reply(core: Core, stream: trio.abc.Stream, reply: BulkReply) -> None:
    with trio.fail_after(core.config.agents.stall_s):
        await stream.send_all((codec.dumps(codec.to_data(reply)) + "\n").encode())
