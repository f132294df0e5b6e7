"""Load on an HTTP server over plain sockets: as many connections as asked, one request at a time on each."""

import re
import selectors
import socket
import time
from urllib.parse import urlsplit

from attrs import define, field

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@define(eq=False)
class _Connection:
    """One keep-alive connection."""

    sock: socket.socket
    sent_at: float = 0.0
    rest: bytearray = field(factory=bytearray)

    def is_answered(self) -> bool:
        """Take what has come; whether that completes the answer."""
        piece = self.sock.recv(65536)
        assert piece, "the server hung up"
        self.rest += piece
        end = self.rest.find(b"\r\n\r\n")
        if end < 0:
            return False
        length = LENGTH.search(self.rest, 0, end + 2)
        if len(self.rest) < end + 4 + (int(length[1]) if length else 0):
            return False
        assert self.rest[9:12] in (b"200", b"304"), bytes(self.rest[:200])
        self.rest.clear()
        return True


def rate(url: str, path: str, connections: int, seconds: float, **headers: str) -> float:
    """Answers a second."""
    address = urlsplit(url)
    lines = [f"GET {path} HTTP/1.1", f"Host: {address.netloc}", *(f"{key}: {each}" for key, each in headers.items())]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    with selectors.DefaultSelector() as ready:
        for _ in range(connections):
            sock = socket.create_connection((address.hostname, address.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(sock, selectors.EVENT_READ, _Connection(sock))
            sock.sendall(request)
        answered, began = 0, time.perf_counter()
        while (now := time.perf_counter()) < began + seconds:
            for key, _ in ready.select(1.0):
                if key.data.is_answered():
                    answered += 1
                    key.data.sock.sendall(request)
        for key in list(ready.get_map().values()):
            key.data.sock.close()
    return answered / (now - began)
