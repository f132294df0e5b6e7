"""What tests of jobd.client need: both clients called alike, a proxy that harms connections, and a server that lies."""

import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import trio
from realdaemon import DEADLINE_S

from jobd.client import Client, TrioClient

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Speaker:
    """One of the two clients, each call with a client of its own: `speaker.status("alice", "j")`. Iterators come back
    as lists, up to the item that `until` is true for."""

    def __init__(self, kind: str, url: str = "", **options: Any) -> None:
        self.kind = kind
        self._new = partial(Client if kind == "threads" else TrioClient, url, **{"patience_s": DEADLINE_S, **options})

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)

    def _call(self, name: str, *arguments: Any, until: Callable[[Any], bool] = lambda _: False, **options: Any) -> Any:
        if self.kind == "threads":
            with self._new() as client:
                answer = getattr(client, name)(*arguments, **options)
                if not isinstance(answer, Iterator):
                    return answer
                with contextlib.closing(answer) as items:
                    return list(taken(items, until))
        return trio.run(self._await, name, arguments, until, options)

    async def _await(self, name: str, arguments: tuple[Any, ...], until: Callable[[Any], bool], options: Any) -> Any:
        async with self._new() as client:
            answer = getattr(client, name)(*arguments, **options)
            if not hasattr(answer, "__aiter__"):
                return await answer
            seen = []
            async with aclosing(answer) as items:
                async for item in items:
                    seen.append(item)
                    if until(item):
                        break
            return seen


def taken(items: Iterable[Any], until: Callable[[Any], bool]) -> Iterator[Any]:
    for item in items:
        yield item
        if until(item):
            return


class Proxy:
    """A TCP proxy of loopback, whose target may move. It serves each connection in a thread of its own."""

    def __init__(self, target: str, port: int = 0) -> None:
        self.target = target
        self.lose_answers = 0  # so many requests arrive, and their answers never do
        self.cuts: list[int] = []  # the next connections are cut after so many bytes of an answer
        self.tears: list[int] = []  # the next connections are cut after so many bytes of a request
        self.then: Callable[[], object] = lambda: None  # called before a planned cut
        self.accepted = 0
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=100)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection."""
        for sock in list(self._open):
            _reset(sock)

    def close(self) -> None:
        # A thread that waits in accept() would keep the listener open.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        where = urlsplit(self.target)
        try:
            far = socket.create_connection((where.hostname, where.port), timeout=5)
        except OSError:
            _reset(near)
            return
        far.settimeout(None)
        self._open |= {near, far}
        tear = self.tears.pop(0) if self.tears else None
        threading.Thread(target=_pump, args=(near, far, tear), daemon=True).start()
        left = self.cuts.pop(0) if self.cuts else None
        with contextlib.suppress(OSError):
            while piece := far.recv(CHUNK):
                if self.lose_answers:
                    self.lose_answers -= 1
                    break
                near.sendall(piece[:left])
                if left is not None and (left := left - len(piece)) <= 0:
                    self.then()
                    break
        for sock in (near, far):
            self._open.discard(sock)
            _reset(sock)


def _pump(near: socket.socket, far: socket.socket, left: int | None) -> None:
    with contextlib.suppress(OSError):
        while piece := near.recv(CHUNK):
            far.sendall(piece[:left])
            if left is not None and (left := left - len(piece)) <= 0:
                break
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_RDWR)  # a half-close counts as gone


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class Liar:
    """A server that answers every request with the next of these, as they are, the last of them for ever: pieces of
    bytes, after which it hangs up. `asked` are the heads of the requests."""

    def __init__(self, *replies: Iterable[bytes]) -> None:
        self.asked: list[str] = []
        self.sent = 0
        self._replies = itertools.chain(replies, itertools.repeat(replies[-1]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock, contextlib.suppress(OSError):
                    self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(CHUNK)
        self.asked.append(head.decode())
        for piece in next(self._replies):
            sock.sendall(piece)
            self.sent += len(piece)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(CHUNK):  # the rest of the request; closing before it is read would reset
            pass


def reply(body: bytes, status: str = "200 OK", **headers: str) -> list[bytes]:
    """One HTTP reply for a Liar."""
    said = {"content-type": "application/json", "content-length": str(len(body))}
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    return [f"HTTP/1.1 {status}\r\n{lines}\r\n".encode(), body]
