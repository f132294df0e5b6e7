"""Users' libraries: names that stand for contents. The contents are files (files.py), the names are here.

A user's shelf is read from the store when it is asked for (`Shelved`) and stays while the cache has room. A run's
inputs are resolved on it at acceptance, so replacing or deleting a name never changes an accepted run.
"""

from collections import Counter, OrderedDict
from collections.abc import Generator
from contextlib import contextmanager

from attrs import frozen

from jobd.dispatch import Situation
from jobd.errors import QueueFull
from jobd.store import Delete, Store
from jobd.world import World
from schemas.records import LibraryRecord, UserRecord

SHELVES_CACHED_MAX = 256
UPLOADS_PER_USER_MAX = 8  # at once: what is on its way in is on the disk, and not in the quota yet


class Shelf:
    """One user's library."""

    def __init__(self, files: dict[str, LibraryRecord]) -> None:
        self.files = files
        self.sequence = 0  # of the store, of its newest change

    @property
    def bytes(self) -> int:
        """All its files together; a content with two names counts twice."""
        return sum(file.bytes for file in self.files.values())


class Library:
    """The shelves that are in memory."""

    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world
        self._shelves: OrderedDict[str, Shelf] = OrderedDict()  # by user id
        self._receiving: Counter[str] = Counter()  # uploads under way, by the user's name

    @contextmanager
    def receiving(self, user: str) -> Generator[None, None, None]:
        """While a content comes in for this user; raises QueueFull."""
        if self._receiving[user] >= UPLOADS_PER_USER_MAX:
            limit = UPLOADS_PER_USER_MAX
            raise QueueFull(f"{limit} uploads of this user are under way.", limit=limit, retry_after_s=1.0)
        self._receiving[user] += 1
        try:
            yield
        finally:
            self._receiving[user] -= 1
            if not self._receiving[user]:
                del self._receiving[user]

    def cached(self, user: UserRecord | None) -> Shelf | None:
        """The user's shelf if it is in memory; somebody unknown has an empty one."""
        if user is None:
            return Shelf({})
        return self._shelves.get(user.id)

    async def read(self, user: UserRecord) -> None:
        """Bring a shelf from the store into memory."""
        records = await self._world.hop(self._store.disk.library, user.id)
        self._keep(user, records)

    def put(self, user: UserRecord, shelf: Shelf, name: str, digest: str, length: int) -> LibraryRecord:
        """Let the name stand for this content from now on."""
        old = shelf.files.get(name)
        identity = old.id if old else self._world.new_id("f")
        shelf.files[name] = LibraryRecord(identity, user.id, name, length, digest, self._world.now())
        shelf.sequence = self._store.put(shelf.files[name])
        if user.id not in self._shelves:
            self._shelves[user.id] = shelf  # a user's first file
        return shelf.files[name]

    def delete(self, shelf: Shelf, name: str) -> None:
        """The name stands for nothing from now on."""
        shelf.sequence = self._store.put(Delete(LibraryRecord, shelf.files.pop(name).id))

    def _keep(self, user: UserRecord, records: tuple[LibraryRecord, ...]) -> None:
        if user.id in self._shelves:
            return  # someone else was faster, and may have changed it since
        self._shelves[user.id] = Shelf({record.name: record for record in records})
        for key, shelf in list(self._shelves.items())[: max(0, len(self._shelves) - SHELVES_CACHED_MAX)]:
            if key != user.id and shelf.sequence <= self._store.committed:
                del self._shelves[key]


@frozen
class Shelved:
    """Requirement: the user's library is in memory."""

    library: Library
    user: UserRecord | None

    def ready(self) -> Shelf | None:
        """The shelf."""
        return self.library.cached(self.user)

    async def wait(self) -> None:
        """Read it from the store."""
        if self.user is not None:
            await self.library.read(self.user)

    @property
    def situation(self) -> Situation:
        """What is waited for."""
        return Situation("store", "reading the library from the store")
