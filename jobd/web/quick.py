"""The hottest reads without the HTTP machinery: one small GET that came whole, answered in the connection's own task.

h11 and Hypercorn cost twice as much as the read itself (docs/benchmarks.md). So a request of the one shape that
gateways and browsers poll with is taken here; whatever looks any other way, or asks for more (a body, an expectation,
another protocol, a long poll), is left to h11. The app behind it is the same ASGI app.
"""

import re
import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any

# Exactly one request: no escape or query in its target, no folded line, nothing behind it (RFC 9112, 2 to 5).
REQUEST = re.compile(rb"GET (/[A-Za-z0-9._/-]*) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[\t -~]*\r\n)+)\r\n")
ELSEWHERE = frozenset(
    (b"connection", b"content-length", b"expect", b"prefer", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
SMALL_BYTES_MAX = 4096


def parse(data: bytes) -> tuple[str, list[tuple[bytes, bytes]]] | None:
    """Path and headers of a request of that shape; None for every other."""
    if len(data) > SMALL_BYTES_MAX or (match := REQUEST.fullmatch(data)) is None:
        return None
    headers, hosts = [], 0
    for line in match[2].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in ELSEWHERE:
            return None
        hosts += name == b"host"
        headers.append((name, value.strip(b" \t")))
    return (match[1].decode(), headers) if hosts == 1 else None


def encode(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    """The answer; its headers say how long it is."""
    lines = [b"HTTP/1.1 %d " % status, *(b"%s: %s" % header for header in headers)]
    lines.append(b"date: " + _date(int(time.time())))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


class Answer:
    """The app's `send`: gathers one whole answer."""

    def __init__(self) -> None:
        self.encoded = b""
        self._start: Any = None
        self._body = bytearray()

    async def send(self, message: Any) -> None:
        """Take a message of the app."""
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                self.encoded = encode(self._start["status"], self._start["headers"], bytes(self._body))
