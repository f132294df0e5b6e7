"""The cancel-scope tree: jobd > user > (agent | job > (run | request)), and the notices that its tasks wait on.

A Scope links work that lives in different task trees: an HTTP request runs in its connection's task, a run in its own.
So children are registered, not nested lexically. Cancelling is one sync call; the first cause wins and reaches every
child; a child of a cancelled scope is born cancelled. A scope leaves the tree when its work is over, a grouping node
when its last child has left.
"""

import contextvars
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import TracebackType

import trio

from schemas.records import Cause


class Notice:
    """Something may have changed: wakes every task that waits, and remembers nothing."""

    def __init__(self) -> None:
        self._waiting = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        """Return at the next notify(), or earlier."""
        await self._waiting.park()

    def notify(self) -> None:
        """Wake all who wait."""
        self._waiting.unpark_all()

    def __len__(self) -> int:
        return len(self._waiting)


def outlive(nursery: trio.Nursery, work: Callable[..., Awaitable[object]], *arguments: object, name: str) -> None:
    """Start what outlives the request that asks for it, without that request's context: a task keeps a copy of its
    starter's context for as long as it lives, and a web framework's holds the whole request."""
    contextvars.Context().run(partial(nursery.start_soon, work, *arguments, name=name))


class Scope:
    """One node. Enter it (`with scope:`) in the task that does its work; a grouping node is never entered."""

    def __init__(self, kind: str, name: str, parent: "Scope | None" = None) -> None:
        self.kind = kind
        self.name = name
        self.parent = parent
        self.children: dict[tuple[str, str], Scope] = {}
        self.cause: Cause | None = parent.cause if parent else None
        self.doing = ""  # what the work awaits now, in words for `jobctl tree`
        self._working = False  # opened for one piece of work that is not over
        self._trio: trio.CancelScope | None = None
        self._expiry: tuple[float, Cause] | None = None

    def group(self, kind: str, name: str) -> "Scope":
        """The grouping node of this name below this one, made if there is none."""
        node = self.children.get((kind, name))
        if node is None:
            node = self.children[kind, name] = Scope(kind, name, self)
        return node

    def open(self, kind: str, name: str) -> "Scope":
        """A new scope for one piece of work below this one; the caller enters it once."""
        assert (kind, name) not in self.children, f"two {kind} scopes named {name}"
        node = self.group(kind, name)
        node._working = True
        return node

    def cancel(self, cause: Cause) -> bool:
        """End this scope's work and all below it; returns False when an earlier cause had done so."""
        if self.cause is not None:
            return False
        self.cause = cause
        if self._trio is not None:
            self._trio.cancel(reason=cause.code)
        for child in list(self.children.values()):
            child.cancel(cause)
        return True

    def expire(self, seconds: float, cause: Cause) -> None:
        """Cancel with `cause` after so many seconds from now; replaces an earlier expiry."""
        self._expiry = (trio.current_time() + seconds, cause)
        if self._trio is not None:
            self._trio.deadline = self._expiry[0]

    def __enter__(self) -> "Scope":
        assert self._trio is None, "a scope is entered once"
        self._trio = trio.CancelScope(deadline=self._expiry[0] if self._expiry else float("inf"))
        self._trio.__enter__()
        if self.cause is not None:
            self._trio.cancel(reason=self.cause.code)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._trio is not None
        swallowed = self._trio.__exit__(kind, error, trace)
        if self._trio.cancelled_caught and self.cause is None:
            assert self._expiry is not None, "cancelled, but neither by a cause nor by an expiry"
            self.cancel(self._expiry[1])
        self.leave()
        return swallowed

    def leave(self) -> None:
        """The work is over: leave the tree, and with it every node above that has neither work nor children now."""
        self._working = False
        node: Scope = self
        while node.parent is not None and not node.children and not node._working:
            node.parent.children.pop((node.kind, node.name), None)
            node = node.parent

    def walk(self, depth: int = 0) -> Iterator[tuple[int, "Scope"]]:
        """This node and all below it, with their depth, in the order of their opening."""
        yield depth, self
        for child in self.children.values():
            yield from child.walk(depth + 1)
