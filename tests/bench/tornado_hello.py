"""The baseline of reads: the hello of tornado's own front page, as one process."""

import asyncio
import sys

import tornado.web


class Hello(tornado.web.RequestHandler):
    def get(self) -> None:
        self.write("Hello, world")


async def main() -> None:
    server = tornado.web.Application([(r"/", Hello)]).listen(0, "127.0.0.1")
    sys.stdout.write(f"{next(iter(server._sockets.values())).getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
