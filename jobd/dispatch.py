"""Easier to ask permission, restart on await, cancel is free: the one loop that serves every request.

A request is written as a *plan*: a plain function that asks `request.need(...)` for each thing it needs, in order, and
then commits and returns its *act*, the only part that awaits. When something is missing `need` raises Awaited; the
loop waits for that one requirement and starts the plan again from the top, so that every check is made afresh after
every await. The laws, each with a test:

* nothing is changed before the last `need` (tickets in `held` excepted: they are places in a queue);
* what a request holds across restarts is in `held`, and given back by leaving it, however it is left;
* after the act's await a request returns, or, if it only reads, raises Awaited and starts over;
* this is the only place that catches Awaited and the only one that unwraps exception groups.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import trio
from attrs import frozen

from jobd.broker import Pool, Ticket
from jobd.scopes import Scope

T = TypeVar("T")
V_co = TypeVar("V_co", covariant=True)

RESTARTS_MAX = 100_000  # a livelock assertion, not a limit: deadlines limit


@frozen
class Situation:
    """What something waits for, in words for people: a stable code, a sentence, and its place in the queue, if any."""

    code: str
    text: str
    ticket: Ticket | None = None

    @property
    def ahead(self) -> int | None:
        """How many stand ahead of it now: that changes without waking whoever waits."""
        return self.ticket.ahead if self.ticket else None


class Requirement(Protocol[V_co]):
    """One thing that a plan needs."""

    def ready(self) -> V_co | None:
        """The thing, or None while it is missing; raises a JobdError when it can never come. Changes nothing."""

    async def wait(self) -> None:
        """Return when `ready` may have changed; may return early. May ask others to bring it about."""

    @property
    def situation(self) -> Situation:
        """What is waited for."""


class Awaited(Exception):
    """A plan needs this first."""

    def __init__(self, requirement: Requirement[object]) -> None:
        super().__init__(requirement.situation.code)
        self.requirement = requirement


class Held:
    """What a request keeps over its restarts: tickets, taken in the pools' one total order, given back on leaving."""

    def __init__(self) -> None:
        self._tickets: dict[Pool, Ticket] = {}

    def ticket(self, pool: Pool, user: str, amount: tuple[int, ...], *, granted: bool = False) -> Ticket:
        """The ticket of this pool; the first call joins its queue. `granted` takes up slots held before a restart.

        A place in the queue of another pool of the same rank is given back: it was another way to the same thing.
        """
        if pool not in self._tickets:
            if (other := self.at(pool.rank)) is not None:
                assert not other.granted, "who holds what is needed does not look for it elsewhere"
                self._tickets.pop(other.pool).leave()
            assert all(other.rank < pool.rank for other in self._tickets), "tickets are taken in the order of the pools"
            self._tickets[pool] = pool.join(user, amount, granted=granted)
        return self._tickets[pool]

    def at(self, rank: int) -> Ticket | None:
        """The ticket of the pool of this rank, if there is one."""
        return next((ticket for pool, ticket in self._tickets.items() if pool.rank == rank), None)

    def __enter__(self) -> "Held":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._tickets:
            self._tickets.popitem()[1].leave()


class Request:
    """One request on its way: its scope in the tree, what it holds, and how often it was started."""

    def __init__(self, scope: Scope, held: Held | None = None) -> None:
        self.scope = scope
        self.held = held or Held()
        self.restarts = 0
        self.situation: Situation | None = None
        self.nursery: trio.Nursery | None = None

    def need(self, requirement: Requirement[T]) -> T:
        """The thing that is needed; raises Awaited while it is missing."""
        value = requirement.ready()
        if value is None:
            raise Awaited(requirement)
        return value


Act = Callable[[], Awaitable[T]]
Plan = Callable[[Request], Act[T]]


class _Outcome(Generic[T]):
    value: T


async def dispatch(plan: Plan[T], request: Request, waiting: Callable[[Situation | None], None] | None = None) -> T:
    """Run the plan until its act has returned. `waiting` is told each situation, and None when the wait is over."""
    for request.restarts in range(RESTARTS_MAX):
        # Without this checkpoint a request that is already cancelled could commit.
        await trio.lowlevel.checkpoint_if_cancelled()
        done, missing = await _attempt(plan, request)
        if missing is None:
            return done.value
        request.situation = missing.situation
        request.scope.doing = missing.situation.text
        if waiting:
            waiting(missing.situation)
        await missing.wait()
        request.situation = None
        request.scope.doing = ""
        if waiting:
            waiting(None)
    raise AssertionError(f"a plan was restarted {RESTARTS_MAX} times")


async def _attempt(plan: Plan[T], request: Request) -> tuple[_Outcome[T], Requirement[object] | None]:
    """One attempt in a nursery of its own, which dies with it."""
    outcome: _Outcome[T] = _Outcome()
    missing: Requirement[object] | None = None
    try:
        async with trio.open_nursery() as request.nursery:
            try:
                outcome.value = await plan(request)()
            except Awaited as awaited:
                missing = awaited.requirement
            request.nursery.cancel_scope.cancel(reason="the attempt is over")
    except ExceptionGroup as group:
        raise _first(group) from None
    return outcome, missing


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The error that ended an attempt: the nursery has cancelled whatever else ran in it."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
