"""The product in one place: one plan for each request type.

A plan is a plain function: it asks `request.need(...)` for each thing in order, then commits, and returns its act, the
only part that awaits. It is run again from the top after every wait, so nothing in it is ever stale. Everything above
the line `# commit` may happen many times; everything below happens once.
"""

from jobd.plans.agents import forget_agent, stop_agent
from jobd.plans.clusters import logged, login, logout
from jobd.plans.hosts import drain
from jobd.plans.jobs import cancel, delete, explain, history, is_over, listing, series, status
from jobd.plans.questions import analyse, compute, list_files, progress, read
from jobd.plans.runs import accept, admit, hold, post, start
from jobd.plans.users import (
    find,
    mint,
    overfull,
    revoke,
    room,
    session,
    set_tier,
    shelf,
    shelve,
    tokens,
    unshelve,
    usage,
)

__all__ = [
    "accept",
    "admit",
    "analyse",
    "cancel",
    "compute",
    "delete",
    "drain",
    "explain",
    "find",
    "forget_agent",
    "history",
    "hold",
    "is_over",
    "list_files",
    "listing",
    "logged",
    "login",
    "logout",
    "mint",
    "overfull",
    "post",
    "progress",
    "read",
    "revoke",
    "room",
    "series",
    "session",
    "set_tier",
    "shelf",
    "shelve",
    "start",
    "status",
    "stop_agent",
    "tokens",
    "unshelve",
    "usage",
]
