"""What an op can come to: plain data, contents too large for a message, or a failure with a code."""

import os
import tempfile

from schemas.codec import Json


class OpFailed(Exception):
    """The op's error code, and a sentence for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Content:
    """Bytes of an open file that go by bulk; `result` is what is said beside them. Closing it is the holder's duty."""

    def __init__(self, descriptor: int, offset: int, length: int, kind: str, result: Json = None) -> None:
        self.length = length
        self.kind = kind
        self.result = result
        self._descriptor = descriptor
        self._offset = offset

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def read(self, size: int, offset: int) -> bytes:
        """In a thread."""
        return os.pread(self._descriptor, size, self._offset + offset)


class Spool:
    """A nameless file in the agent's own directory that gathers what is too large for memory."""

    def __init__(self, directory: str) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - content() closes it
        self._length = 0

    def add(self, piece: bytes) -> None:
        """In a thread."""
        while piece:
            written = self._file.write(piece)
            self._length += written
            piece = piece[written:]

    def content(self, kind: str, result: Json = None) -> Content:
        """What was gathered; the spool is used up."""
        descriptor = os.dup(self._file.fileno())
        self._file.close()
        return Content(descriptor, 0, self._length, kind, result)


def spool_json(directory: str, text: str) -> Content:
    """An encoded result that is too large for a message; in a thread."""
    spool = Spool(directory)
    spool.add(text.encode())
    return spool.content("application/json")
