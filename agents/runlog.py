"""The run's log: its output on the way from a pipe into a file, up to a limit. The run's parent copies it."""

import os

PIECE_BYTES = 64 * 1024


class Log:
    """The run's output on its way from the pipe into the log file, up to its limit."""

    def __init__(self, path: str, bytes_max: int) -> None:
        self.readable, self.writable = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.readable, False)  # the writer's end stays as programs expect it
        self.is_full = False
        self.trouble = ""  # a clause for people, if the log is not whole
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._room_bytes = bytes_max

    def copy(self) -> bool:
        """Copy what is in the pipe; False when no writer is left."""
        try:
            piece = os.read(self.readable, PIECE_BYTES)
        except BlockingIOError:
            return True
        self.is_full = self.is_full or len(piece) > self._room_bytes
        piece_kept = memoryview(piece)[: self._room_bytes]
        self._room_bytes -= len(piece_kept)
        try:
            while piece_kept and not self.trouble:
                piece_kept = piece_kept[os.write(self._file, piece_kept) :]
        except OSError as error:  # a full disk must not end the parent
            self.trouble = f"its log is not whole ({error.strerror})"
        return bool(piece)
