"""Why a run ended: every cause that jobd gives, with its verdict and its sentence. docs/faults.md is made from this."""

from schemas.records import CAUSE_CHARS_MAX, Cause, Verdict

CAUSES: dict[str, tuple[Verdict, str]] = {
    "completed": ("completed", "The code ended without an error."),
    "user": ("canceled", "Canceled by the user."),
    "superseded": ("canceled", "A newer run took its place."),
    "exit_code": ("failed", "The code ended with an error of its own."),
    "signal": ("failed", "The code was ended by a signal."),
    "run_timeout": ("failed", "It ran for longer than its limit."),
    "log_limit": ("failed", "It wrote more log than it may."),
    "out_of_memory": ("failed", "It was killed for lack of memory."),
    "disk": ("failed", "It took more disk than there is for it."),
    "not_started": ("failed", "The command could not be started, or its inputs could not be fetched."),
    "stopped": ("failed", "It was stopped at its place, not by jobd."),
    "queue_timeout": ("failed", "It waited in the queue for longer than its limit."),
    "start_timeout": ("failed", "It could not be started within its limit."),
    "agent_start": ("failed", "Its agent could not be started within its limit."),
    "heartbeat_timeout": ("failed", "Nothing was heard of its agent for longer than its limit."),
    "lost": ("failed", "What watched it is gone without a word: the machine was restarted, or the process killed."),
    "rejected": ("failed", "The cluster's scheduler did not take it."),
    "requeued": ("failed", "The cluster's scheduler began it a second time, and a run is executed once only."),
    "node_failed": ("failed", "A node of the cluster failed under it."),
    "preempted": ("failed", "The cluster's scheduler ended it in favour of another job."),
    "scheduler_canceled": ("failed", "It was canceled at the cluster's scheduler, not through jobd."),
    "agent_lost": ("failed", "Its agent, and with it all that ran in the agent's container, has ended."),
    "host": ("failed", "The host that it ran on, or the engine there, was stopped or restarted."),
    "forgotten": ("failed", "An operator declared its agent gone; its end could not be proved."),
    "internal": ("failed", "jobd failed at this run; its log says why."),
}


def cause(code: str, text: str = "", actor: str = "jobd") -> Cause:
    """A cause of this code, with its own sentence unless a more exact one is given."""
    return Cause(code, (text or CAUSES[code][1])[:CAUSE_CHARS_MAX], actor)
