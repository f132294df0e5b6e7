"""The disk that a run takes: watched by the run's parent, so that it is bounded whether the agent lives or not.

The parent calls `look` whenever `due_at` has come. A look is one statvfs and perhaps a slice of a walk (walk.py) over
the run's directory; after each slice the walk rests for so long that it never takes more than DUTY of a core, however
many files there are. While little is there it looks each second, and sooner the faster the usage grows towards its
limit.

    usage > WARNING of the limit       a note in the control directory, which the agent tells jobd of
    usage > limit                      the run is to end: outcome `disk`
    the file system is nearly full     the same, if this run has grown since there was room enough
    usage > OUT_OF_HAND of the limit   it writes on through its grace: no more grace

Files that have lost their names and are held open are in no directory. They are looked for (nameless.py) only when the
file system has lost so much room that they could matter.
"""

import contextlib
import os
import time

from agents import disk, nameless, records
from agents.units import human
from agents.walk import Walk
from schemas.link import RunLimits

DUTY = 0.05  # of one core, at most
SLICE_S = 0.01  # meanwhile the run's output waits in its pipe
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 1.0
WARNING = 0.9
CALM = 0.85  # below it the warning is taken back
OUT_OF_HAND = 1.1
RESERVE_SHARE_MAX = 0.1  # on a small file system the reserve is not more of it than this
GROWTH_BYTES_MIN = 1 << 20  # who has grown by less is not who fills the file system
SETTLE_S_MAX = 5.0  # for the last count, with which the end waits


class DiskWatch:
    """Made before the main process begins. `due_at` is when `look` wants to be called next, by time.monotonic()."""

    def __init__(self, run_dir: str, control: str, limits: RunLimits) -> None:
        self.due_at = time.monotonic() + PAUSE_S_MIN
        self.is_out_of_hand = False  # it was told to end and writes on so fast that its grace must end too
        self._limits = limits
        self._control = control
        self._directory = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._room_at_first = self._room_bytes()
        self._walk: Walk | None = None
        self._walk_at = self.due_at
        self._pause_s = PAUSE_S_MIN
        self._is_confirming = False
        self._used_bytes = 0  # at the newest whole walk
        self._used_with_room: int | None = None  # at the newest one while the file system had room enough
        self._counted_at = time.monotonic()
        self._warning = ""
        self._verdict = ""
        self._over_bytes = 0  # how far beyond the limit it was when that was noticed

    def look(self) -> bool:
        """One slice, if one is due; True from when the run is to end because of the disk it takes."""
        now = time.monotonic()
        if now >= self.due_at:
            if now >= self._walk_at:
                self._walk_on(now)
            if self._verdict and self._is_short(share=0.5):
                self.is_out_of_hand = True
            self.due_at = min(self._walk_at, time.monotonic() + PAUSE_S_MAX)
        return bool(self._verdict)

    def settle(self) -> str:
        """The words about its end, once its last process is gone, with how far beyond its limit it came."""
        if self._over_bytes > 0:
            walk = self._begin_walk()
            walk.go_on(time.monotonic() + SETTLE_S_MAX)
            walk.close()
            left_bytes = max(0, walk.bytes - self._limits.disk_bytes)
            self._note(records.DiskNote(self._warning, self._over_bytes, left_bytes))
            self._verdict += (
                f"; {human(self._over_bytes)} beyond it when that was noticed, "
                f"{human(left_bytes)} when its last process was gone"
            )
        return self._verdict

    # --- one look

    def _walk_on(self, now: float) -> None:
        is_whole = False
        try:
            self._walk = self._walk or self._begin_walk()
            if is_whole := self._walk.go_on(float("inf") if self._is_confirming else now + SLICE_S):
                walk, self._walk = self._walk, None
                self._judge(walk, now)
        except OSError:  # the directory cannot be opened anew: out of descriptors; the next look may
            self._walk = None
        spent_s = time.monotonic() - now
        self._walk_at = now + spent_s + max(self._pause_s if is_whole else 0.0, spent_s / DUTY)

    def _judge(self, walk: Walk, now: float) -> None:
        used_bytes = walk.bytes
        lost_bytes = self._room_at_first - self._room_bytes()
        if lost_bytes > self._limits.disk_bytes - used_bytes or self._is_short():
            used_bytes += nameless.held_bytes(os.getpid(), walk.device)
        excess = self._excess(walk, used_bytes)
        # Files that come and go are counted together by a walk in slices, though they never existed together.
        self._is_confirming = bool(excess) and walk.slices > 1 and not self._is_confirming
        if self._is_confirming:
            self._pause_s = 0.0
            return
        if excess and not self._verdict:
            self._over_bytes = max(0, used_bytes - self._limits.disk_bytes)
        self._verdict = self._verdict or excess
        self.is_out_of_hand = self.is_out_of_hand or (
            bool(self._verdict) and used_bytes > OUT_OF_HAND * self._limits.disk_bytes
        )
        self._warn(used_bytes)
        self._plan(used_bytes, now)

    def _excess(self, walk: Walk, used_bytes: int) -> str:
        """Why the run is to end: a clause for people, or nothing."""
        limits = self._limits
        if walk.trouble:
            return walk.trouble
        if walk.entries > limits.disk_files:
            return f"its directory held more than {limits.disk_files} files and directories"
        if used_bytes > limits.disk_bytes:
            return f"its directory held {human(used_bytes)}, and its limit is {human(limits.disk_bytes)}"
        if self._used_with_room is None or not self._is_short():
            self._used_with_room = used_bytes
        elif used_bytes - self._used_with_room >= GROWTH_BYTES_MIN:
            return (
                f"its file system has only {human(self._room_bytes())} left, of which {human(self._reserve_bytes())} "
                f"are kept free, and this run grew: its directory held {human(used_bytes)}"
            )
        return ""

    def _plan(self, used_bytes: int, now: float) -> None:
        """When to look next: in half the time in which it would reach its limit, if it went on like that."""
        grown_bytes, elapsed_s = used_bytes - self._used_bytes, max(now - self._counted_at, 1e-3)
        self._used_bytes, self._counted_at = used_bytes, now
        pause_s = min(PAUSE_S_MAX, 2 * max(self._pause_s, PAUSE_S_MIN))
        if self._verdict:
            pause_s = PAUSE_S_MIN
        elif grown_bytes > 0:
            pause_s = min(pause_s, (self._limits.disk_bytes - used_bytes) * elapsed_s / grown_bytes / 2)
        self._pause_s = max(PAUSE_S_MIN, pause_s)

    def _warn(self, used_bytes: int) -> None:
        limit_bytes = self._limits.disk_bytes
        warning = ""
        if used_bytes > (CALM if self._warning else WARNING) * limit_bytes:
            warning = f"The run's directory takes nearly all of the {human(limit_bytes)} of disk that it may."
        if warning != self._warning:
            self._warning = warning
            self._note(records.DiskNote(warning, self._over_bytes))

    def _note(self, note: records.DiskNote) -> None:
        with contextlib.suppress(OSError):  # a full disk; the end says it all the same
            disk.note_record(self._control, records.DISK, note)

    # --- the run's directory and its file system

    def _begin_walk(self) -> Walk:
        return Walk(self._directory, self._limits.disk_files)

    def _is_short(self, share: float = 1.0) -> bool:
        return self._room_bytes() < share * self._reserve_bytes()

    def _room_bytes(self) -> int:
        found = os.fstatvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def _reserve_bytes(self) -> float:
        found = os.fstatvfs(self._directory)
        return min(self._limits.disk_reserve_bytes, RESERVE_SHARE_MAX * found.f_blocks * found.f_frsize)
