"""Whether a run was short of memory: the memory group's counters before its main process began, and after its end.

In a container the group is the run's own (beside the agent), and what it counts is the run's. Elsewhere several runs
may share a group: then a kill is the run's own for sure only when its main process died of a SIGKILL that nobody of us
sent, and the words say that the group is shared.
"""

from agents import cgroup
from agents.units import human

OOM_SCORE_RAISE = 500  # a run's processes are killed before the agent, its fork server and the run's parent
OOM_SCORE_MAX = 1000


class MemoryAccount:
    """Made just before the main process begins. `is_own`: the group holds no other run."""

    def __init__(self, is_own: bool, root: str = "/") -> None:
        self._is_own = is_own
        self._group = cgroup.find_group(root)
        self._peak_is_of_run = is_own and self._group is not None and self._group.begin_peak_anew()
        self._before = self._read()
        self._after = self._before

    def close(self) -> None:
        """After the main process has ended: what is counted from now on is not looked at."""
        self._after = self._read()

    @property
    def kills(self) -> int:
        """Processes that were killed for lack of memory meanwhile."""
        if self._before is None or self._after is None:
            return 0
        return max(0, (self._after.kills or 0) - (self._before.kills or 0))

    def verdict(self) -> str:
        """Words about a main process that was killed for lack of memory."""
        others = f", and {self.kills - 1} more of its processes" if self._is_own and self.kills > 1 else ""
        return f"the kernel killed its main process{others}; {self._numbers()}"

    def remark(self) -> str:
        """A clause about other processes that were; empty if there were none."""
        if self.kills == 0:
            return ""
        whose = "its processes" if self._is_own else "the processes in its memory group, which others may share,"
        verb = "was" if self.kills == 1 else "were"
        return f"{self.kills} of {whose} {verb} killed for lack of memory ({self._numbers()})"

    def _numbers(self) -> str:
        after, before = self._after, self._before
        assert after is not None, "there was a kill"
        assert before is not None
        limit = f"limit {human(after.limit_bytes)}" if after.limit_bytes is not None else "no limit of its own"
        return f"{self._use(before, after)}{limit}"

    def _use(self, before: cgroup.Memory, after: cgroup.Memory) -> str:
        peak = after.peak_bytes
        if peak is not None and (self._peak_is_of_run or before.peak_bytes is None or peak > before.peak_bytes):
            return f"peak {human(peak)}, "
        if after.usage_bytes is None:
            return ""
        # A mark that stands since an earlier run says nothing about this one.
        earlier = f" (in an earlier run at most {human(peak)})" if peak is not None and self._is_own else ""
        return f"{human(after.usage_bytes)} in use at its end{earlier}, "

    def _read(self) -> cgroup.Memory | None:
        return self._group.read() if self._group is not None else None


def offer_to_oom_killer() -> None:
    """In a child, before its command: be killed before those that must tell of it. Only ever raised, so no right is
    needed; a code may lower its own again down to where it was, never below."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            score = min(OOM_SCORE_MAX, int(file.read()) + OOM_SCORE_RAISE)
            file.seek(0)
            file.write(str(score))
    except (OSError, ValueError):
        pass  # no /proc that can be written: the kernel then chooses by size alone
