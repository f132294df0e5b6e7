"""What many universes have met: virtual time, faults, requests and their answers, and how runs ended.

Whatever a simulation claims to test must happen in it: `missing` names what did not.
"""

from collections import Counter
from collections.abc import Iterable

YEAR_S = 365.25 * 86400

# As they are counted, each with the number that is to be met at least once in a thousand seeds.
ASKED = (
    "run", "status", "long poll", "cancel", "delete", "list", "history", "explain", "series", "analysis", "compute",
    "session", "set tier", "usage", "mint a token", "revoke a token", "list tokens", "show a token", "put a file",
    "delete a file", "find a file", "list files", "events", "stop an agent", "forget an agent", "list all",
)  # fmt: skip
FAULTS = (
    "cut", "half open", "stall", "kill agent", "kill parent", "kill jobd", "restart jobd", "store outage", "reboot",
    "clock jump", "garbage", "commit failed", "removal failed", "a fact twice", "a lie about another run",
    "stillborn for ever", "half-open for ever", "stalled for ever", "backend failed at prepare",
    "backend failed at start", "backend failed at started", "backend failed at adopt", "backend failed at alive",
    "backend failed at stop", "backend failed at log_tail",
)  # fmt: skip
VERDICTS = (
    "completed: completed", "canceled: user", "canceled: superseded", "failed: exit_code", "failed: run_timeout",
    "failed: queue_timeout", "failed: start_timeout", "failed: agent_start", "failed: heartbeat_timeout",
    "failed: lost", "failed: forgotten",
)  # fmt: skip
REFUSED = (
    "run_active", "no_run", "not_found", "stale_serial", "invalid", "queue_full", "quota", "store_unavailable",
    "shutting_down", "agent_unavailable", "deadline", "no_frame",
)  # fmt: skip
EXECUTIONS = ("exited", "stopped", "wall_time", "lost")
OTHERS = ("unanswered", "hung up", "healed", "turns while others waited")

KINDS = {"asked": ASKED, "fault": FAULTS, "verdict": VERDICTS, "refused": REFUSED, "execution": EXECUTIONS}


def missing(counts: Counter[str], but: Iterable[str] = ()) -> list[str]:
    """What has never happened."""
    wanted = [f"{kind}: {name}" for kind, names in KINDS.items() for name in names]
    return [name for name in (*wanted, *OTHERS) if not counts[name] and name not in but]


def report(seeds: int, counts: Counter[str], seconds: float) -> str:
    """For people."""
    virtual_s = counts["virtual seconds"]
    restarts = sum(counts[f"fault: {kind}"] for kind in ("kill jobd", "restart jobd", "reboot"))
    lines = [
        f"{seeds} seeds in {seconds:.0f} s; {virtual_s / YEAR_S:.3f} virtual years; jobd was restarted {restarts} times"
    ]
    for kind in KINDS:
        found = {name: count for name, count in sorted(counts.items()) if name.startswith(f"{kind}: ")}
        lines.append(f"{kind}: {sum(found.values())}")
        lines += [f"  {count:9d} {name.removeprefix(f'{kind}: ')}" for name, count in found.items()]
    lines += [f"{name}: {counts[name]}" for name in OTHERS]
    return "\n".join(lines)
