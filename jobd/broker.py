"""Who may use what: pools of slots, and tickets in their queues.

A pool's capacity and a ticket's amount are vectors of the same units (cores and memory, or just a count). FIFO lives in
the tickets, never in the order in which tasks wake up: joining, leaving and granting are sync, and `_settle` grants
at the moment of release. Turns go round-robin over users and FIFO within a user. The chosen head blocks the pool
until it fits (no backfill), so a large request cannot be starved by small ones, and a user's thousand requests delay
another user's first one by one grant only.
"""

from collections import OrderedDict, deque

from jobd.errors import QueueFull
from jobd.scopes import Notice

Amount = tuple[int, ...]


class Ticket:
    """A place in a pool's queue, or the slots it turned into. Leave it to give either back."""

    def __init__(self, pool: "Pool", user: str, amount: Amount) -> None:
        self.pool = pool
        self.user = user
        self.amount = amount
        self.granted = False
        self._notice = Notice()

    @property
    def ahead(self) -> int:
        """How many tickets will be granted before this one, as things stand."""
        return self.pool.ahead(self)

    async def wait(self) -> None:
        """Return when granted, or when the place in the queue may have changed."""
        if not self.granted:
            await self._notice.wait()

    def grant(self) -> None:
        """For the pool: the slots are yours."""
        self.granted = True
        self._notice.notify()

    def disturb(self) -> None:
        """For the pool: look again whether this is the right queue."""
        self._notice.notify()

    def leave(self) -> None:
        """Give back the slots, or the place in the queue."""
        self.pool.leave(self)


class Pool:
    """Slots of one kind. `rank` is the pool's place in the total order that forbids hold-and-wait cycles."""

    def __init__(self, name: str, rank: int, capacity: Amount, waiting_max: int = 10_000) -> None:
        self.name = name
        self.rank = rank
        self.capacity = capacity
        self.used: Amount = tuple(0 for _ in capacity)
        self.wanted: Amount = self.used  # used or waited for
        self.waiting = 0  # how many tickets wait
        self.waiting_max = waiting_max
        self._queues: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._granted: set[Ticket] = set()

    @property
    def is_full(self) -> bool:
        """Whether nobody more may wait."""
        return self.waiting >= self.waiting_max

    @property
    def idle(self) -> bool:
        """Nobody holds or waits for anything."""
        return not self._granted and not self._queues

    def fits(self, amount: Amount) -> bool:
        """Whether the amount could ever be granted."""
        return all(want <= there for want, there in zip(amount, self.capacity, strict=True))

    def join(self, user: str, amount: Amount, *, granted: bool = False) -> Ticket:
        """Stand in the queue. With `granted`, slots that were granted before a restart are taken up again, even when
        the capacity has become smaller; raises QueueFull."""
        assert len(amount) == len(self.capacity), "amounts and capacity have the same units"
        ticket = Ticket(self, user, amount)
        if granted:
            self.wanted = _sum(self.wanted, amount)
            self._grant(ticket)
            return ticket
        if self.is_full:
            raise QueueFull(f"Queue '{self.name}' holds at most {self.waiting_max}.", limit=self.waiting_max)
        self._queues.setdefault(user, deque()).append(ticket)
        self.wanted = _sum(self.wanted, amount)
        self.waiting += 1
        self._settle()
        return ticket

    def resize(self, capacity: Amount) -> None:
        """From now on there is so much; what is granted beyond it stays granted until it is given back."""
        self.capacity = capacity
        self._settle()

    def leave(self, ticket: Ticket) -> None:
        """Give back the slots or the place; leaving twice is harmless."""
        if ticket in self._granted:
            self._granted.remove(ticket)
            self.used = _difference(self.used, ticket.amount)
            self.wanted = _difference(self.wanted, ticket.amount)
        elif ticket in (queue := self._queues.get(ticket.user, deque())):
            queue.remove(ticket)
            self.wanted = _difference(self.wanted, ticket.amount)
            self.waiting -= 1
            if not queue:
                del self._queues[ticket.user]
        self._settle()

    def disturb(self) -> None:
        """Wake everyone who waits here: they may want to wait elsewhere."""
        for queue in self._queues.values():
            for ticket in queue:
                ticket.disturb()

    def ahead(self, ticket: Ticket) -> int:
        """How many tickets are granted before this one if nobody else comes: turns are round-robin over users."""
        if ticket.granted:
            return 0
        turn = self._queues[ticket.user].index(ticket)
        users = list(self._queues)
        place = users.index(ticket.user)
        return turn + sum(
            min(len(self._queues[user]), turn + (other < place)) for other, user in enumerate(users) if other != place
        )

    def _settle(self) -> None:
        while self._queues:
            user, queue = next(iter(self._queues.items()))
            if not self._has_room(queue[0].amount):
                return
            ticket = queue.popleft()
            self.waiting -= 1
            if queue:
                self._queues.move_to_end(user)
            else:
                del self._queues[user]
            self._grant(ticket)

    def _has_room(self, amount: Amount) -> bool:
        return all(used + want <= there for used, want, there in zip(self.used, amount, self.capacity, strict=True))

    def _grant(self, ticket: Ticket) -> None:
        self._granted.add(ticket)
        self.used = _sum(self.used, ticket.amount)
        ticket.grant()


def _sum(left: Amount, right: Amount) -> Amount:
    return tuple(have + more for have, more in zip(left, right, strict=True))


def _difference(left: Amount, right: Amount) -> Amount:
    return tuple(have - gone for have, gone in zip(left, right, strict=True))
