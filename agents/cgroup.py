"""The memory group that we are in, as the kernel shows it: its limit, how full it was, and whom it killed.

Both versions of control groups, seen from a container (the mount shows our own group, or the host's whole tree) or
from the host. Readers only, but for the peak, which v1 lets be begun anew. Every file may be missing, unreadable or
strange: then that number is not known, and None. Synchronous and free of trio: the runs' parents use it.
"""

import os
from collections.abc import Iterator

from attrs import frozen

FILE_BYTES_MAX = 64 * 1024
UNLIMITED_BYTES = 1 << 60  # v1 says "no limit" with the largest number of pages that it can count


@frozen
class Memory:
    """The numbers of one instant; None where the kernel does not say."""

    limit_bytes: int | None  # the tightest that binds us; None for none
    peak_bytes: int | None  # the most it held since it was made, or since the peak was begun anew
    usage_bytes: int | None
    kills: int | None  # processes that the kernel killed for lack of memory, ever


@frozen
class MemoryGroup:
    """A memory group: its directory, and that of the outermost group above it that can be seen."""

    directory: str
    top: str
    version: int

    def read(self) -> Memory:
        """What it says now."""
        if self.version == 1:
            peak, usage, events = "memory.max_usage_in_bytes", "memory.usage_in_bytes", "memory.oom_control"
        else:
            peak, usage, events = "memory.peak", "memory.current", "memory.events"  # memory.peak since Linux 5.19
        return Memory(
            self._limit_bytes(), self._number(peak), self._number(usage), _keyed(self._text(events), "oom_kill")
        )

    def begin_peak_anew(self) -> bool:
        """Forget the high-water mark; False where that cannot be done (v2, and the read-only mount of a container)."""
        if self.version != 1:
            return False
        try:
            with open(os.path.join(self.directory, "memory.max_usage_in_bytes"), "w") as file:
                file.write("0")
        except OSError:
            return False
        return True

    def _limit_bytes(self) -> int | None:
        """Groups above ours bind us too."""
        name = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        limits = []
        directory = self.directory
        while True:
            limit = _number(_text(os.path.join(directory, name)))
            if limit is not None and limit < UNLIMITED_BYTES:
                limits.append(limit)
            if directory == self.top:
                return min(limits, default=None)
            directory = os.path.dirname(directory)

    def _number(self, name: str) -> int | None:
        return _number(self._text(name))

    def _text(self, name: str) -> str:
        return _text(os.path.join(self.directory, name))


def find_group(root: str = "/") -> MemoryGroup | None:
    """Our own memory group, or None if there is none to be seen; `root` is where / is (tests have recorded ones)."""
    paths = _own_paths(_text(os.path.join(root, "proc/self/cgroup")))
    for version in (1, 2):  # on a machine with both, the memory is where v1 has it, or else v2's
        own = paths.get(version)
        for shown, mounted in _mounts(_text(os.path.join(root, "proc/self/mountinfo")), version):
            top = os.path.join(root, mounted.lstrip("/"))
            if (group := _group(top, shown, own, version)) is not None:
                return group
    return None


def _group(top: str, shown: str, own: str | None, version: int) -> MemoryGroup | None:
    """Our group below one mount, which shows the part of the hierarchy from `shown` on."""
    candidates = [top]  # in a container it usually is our own group, whatever our path is called outside
    if own is not None and (own + "/").startswith(shown.rstrip("/") + "/"):
        below = os.path.relpath(own, shown)
        if below != "." and ".." not in below.split("/"):
            candidates.insert(0, os.path.join(top, below))
    usage = "memory.usage_in_bytes" if version == 1 else "memory.current"
    for directory in candidates:
        if os.path.exists(os.path.join(directory, usage)):
            return MemoryGroup(directory, top, version)
    return None


def _own_paths(text: str) -> dict[int, str]:
    """From /proc/self/cgroup: our path in the v1 memory hierarchy and in v2's."""
    paths = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            paths[1] = path
        elif number == "0" and not controllers:
            paths[2] = path
    return paths


def _mounts(text: str, version: int) -> Iterator[tuple[str, str]]:
    """From /proc/self/mountinfo: which part of the hierarchy each mount shows, and where."""
    for line in text.splitlines():
        fields, _, kind = line.partition(" - ")
        words, kinds = fields.split(), kind.split()
        if len(words) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == ("cgroup" if version == 1 else "cgroup2") and (version == 2 or "memory" in kinds[2].split(",")):
            yield words[3], words[4]


def _keyed(text: str, key: str) -> int | None:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return _number(value)
    return None


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() else None


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read(FILE_BYTES_MAX)
    except (OSError, ValueError):
        return ""
