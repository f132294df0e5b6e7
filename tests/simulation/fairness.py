"""C9 as the pools promise it: turns are round-robin over users.

While a user waits, each other user is granted at most once: whoever was granted goes behind all who waited then. So
with n users waiting, nobody waits for more than n - 1 grants, however many runs the others have.
"""

from collections import Counter

from jobd.broker import Amount, Pool, Ticket

from .universe import Universe


class FairPool(Pool):
    """A pool that counts what others are granted while a user waits."""

    def __init__(self, universe: Universe, pool: Pool) -> None:
        super().__init__(pool.name, pool.rank, pool.capacity, pool.waiting_max)
        self._universe = universe
        self._passed: dict[str, Counter[str]] = {}  # by who waits: grants to each of the others meanwhile

    def join(self, user: str, amount: Amount, *, granted: bool = False) -> Ticket:
        """See Pool; what was granted before a restart is nobody's turn."""
        if not granted:
            self._passed.setdefault(user, Counter())
        return super().join(user, amount, granted=granted)

    def leave(self, ticket: Ticket) -> None:
        """See Pool."""
        super().leave(ticket)
        self._forget_gone()

    def _grant(self, ticket: Ticket) -> None:
        if ticket.user in self._passed:
            self._turn(ticket.user)
        super()._grant(ticket)
        self._forget_gone()

    def _turn(self, user: str) -> None:
        self._passed[user].clear()
        for other, passed in self._passed.items():
            if other != user and other in self._queues:
                passed[user] += 1
                self._universe.count("turns while others waited")
                self._universe.check(
                    passed[user] <= 1, lambda: f"C9: {user} was granted again while {other} waits: {passed}"
                )

    def _forget_gone(self) -> None:
        self._passed = {user: passed for user, passed in self._passed.items() if user in self._queues}
