"""The contents of library files: one file each, named by its SHA-256, written once and never changed.

A content is gathered in a draft, hashed on its way, and takes its name only when it is whole and on the disk. What a
killed daemon leaves is a draft; the next start clears those.
"""

import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

from attrs import frozen

from jobd.errors import TooLarge
from jobd.world import World

READ_BYTES = 256 * 1024
GATHER_BYTES = 1 << 20  # one thread hop for so much: writing and hashing are what an upload costs


@frozen
class Stored:
    """A content that is there."""

    sha256: str
    bytes: int


class Files:
    """The directory of contents."""

    def __init__(self, directory: Path, world: World) -> None:
        self._directory = directory
        self._world = world

    def prepare(self) -> None:
        """Make the directory, and clear what was never finished."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        drafts = self._directory / "drafts"
        drafts.mkdir(mode=0o700, exist_ok=True)
        for draft in drafts.iterdir():
            draft.unlink()

    def path(self, digest: str) -> Path:
        """Where the content with this SHA-256 is."""
        return self._directory / digest[:2] / digest

    async def receive(self, pieces: AsyncIterator[bytes], bytes_max: int) -> Stored:
        """Take a content as it comes; raises TooLarge as soon as it is, and OSError."""
        draft = _Draft(self._directory / "drafts" / self._world.new_id("f"))
        try:
            gathered = bytearray()
            async for piece in pieces:
                gathered += piece
                if draft.bytes + len(gathered) > bytes_max:
                    raise TooLarge(f"It takes {bytes_max} bytes.", limit=bytes_max)
                if len(gathered) >= GATHER_BYTES:
                    await self._world.hop(draft.add, bytes(gathered))
                    gathered.clear()
            await self._world.hop(draft.add, bytes(gathered))
            return await self._world.hop(draft.finish, self.path)
        finally:
            draft.drop()

    async def read(self, digest: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """The content from an offset, piece by piece; to be closed by its reader. Raises OSError."""
        descriptor = await self._world.hop(os.open, self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            left = os.fstat(descriptor).st_size - offset if length is None else length
            while left > 0 and (piece := await self._world.hop(os.pread, descriptor, min(left, READ_BYTES), offset)):
                yield piece
                offset += len(piece)
                left -= len(piece)
        finally:
            os.close(descriptor)


class _Draft:
    """One content in the making; its methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._hash = hashlib.sha256()
        self.bytes = 0

    def add(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.bytes += len(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self, place: Callable[[str], Path]) -> Stored:
        digest = self._hash.hexdigest()
        target = place(digest)
        os.fsync(self._descriptor)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(self._path, target)
        for directory in (target.parent, target.parent.parent):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(descriptor)
            os.close(descriptor)
        return Stored(digest, self.bytes)

    def drop(self) -> None:
        """Let go; what was not finished is deleted."""
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)
