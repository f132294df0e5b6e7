"""Agents without processes, all in this one: each calls home as soon as its door is there, and says of every run that
it has started and ended."""

import sys
from pathlib import Path

import trio
import trio_websocket

from schemas import codec
from schemas.link import MESSAGE_BYTES_MAX, Beat, Ended, Fact, Hello, Order, Start, Started, Taken

BOOT = "hollow"


async def crowd(state: Path) -> None:
    """One task for each agent's directory that appears."""
    seen: set[str] = set()
    async with trio.open_nursery() as nursery:
        while True:
            for hello in state.glob("agents/*/hello"):
                if hello.parent.name not in seen and (hello.parent / "control.sock").exists():
                    seen.add(hello.parent.name)
                    nursery.start_soon(agent, state, hello)
            await trio.sleep(0.05)


async def agent(state: Path, hello: Path) -> None:
    """One agent's connection, for ever; while there is a file `hold`, its runs do not end."""
    generation, token = hello.read_text().split()
    stream = await trio.open_unix_socket(str(hello.parent / "control.sock"))
    async with trio.open_nursery() as nursery:
        socket = await trio_websocket.wrap_client_stream(
            nursery, stream, "jobd", "/", extra_headers=[(b"authorization", f"Bearer {token}".encode())]
        )

        async def say(fact: Fact) -> None:
            await socket.send_message(codec.encode(fact))

        async def beat() -> None:
            while True:
                await trio.sleep(5)
                await say(Beat())

        await say(Hello(1, 1, hello.parent.name, int(generation), BOOT, "3.11", 1, 0))
        nursery.start_soon(beat)
        number = 0
        while True:
            order = codec.decode(await socket.get_message(), Order, MESSAGE_BYTES_MAX)
            if isinstance(order, Start):
                while (state / "hold").exists():
                    await trio.sleep(0.02)
                number += 2
                await say(Taken(order.epoch))
                await say(Started(number - 1, order.epoch, 0.0))
                await say(Ended(number, order.epoch, "exited", 0.0, exit_code=0))


if __name__ == "__main__":
    trio.run(crowd, Path(sys.argv[1]))
