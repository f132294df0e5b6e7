"""Pools: who gets which slot, and when. Properties over random joining and leaving."""

import random
from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from jobd.broker import Pool, Ticket
from jobd.errors import QueueFull

USERS = st.sampled_from("abcd")
AMOUNTS = st.tuples(st.integers(1, 4), st.integers(0, 6))
JOINS = st.tuples(USERS, AMOUNTS)
LEAVES = st.integers(0, 10_000)
DEEDS = st.lists(st.one_of(JOINS, LEAVES), max_size=60)
Deeds = list[tuple[str, tuple[int, int]] | int]
CAPACITY = (4, 6)


class NotingPool(Pool):
    """Notes the order of its grants, which shows nowhere else when one leaving grants several."""

    def __init__(self) -> None:
        super().__init__("pool", 1, CAPACITY)
        self.grants: list[Ticket] = []

    def _grant(self, ticket: Ticket) -> None:
        self.grants.append(ticket)
        super()._grant(ticket)


def played(deeds: Deeds) -> tuple[NotingPool, list[Ticket]]:
    """Join and leave at random; returns the pool and the tickets that are left, in the order of their joining."""
    pool = NotingPool()
    tickets: list[Ticket] = []
    for deed in deeds:
        if isinstance(deed, tuple):
            tickets.append(pool.join(*deed))
        elif tickets:
            tickets.pop(deed % len(tickets)).leave()
        check(pool, tickets)
    return pool, tickets


def check(pool: Pool, tickets: list[Ticket]) -> None:
    granted = [ticket.amount for ticket in tickets if ticket.granted]
    assert pool.used == tuple(sum(amount[unit] for amount in granted) for unit in range(2))
    assert all(used <= there for used, there in zip(pool.used, CAPACITY, strict=True)), "above capacity"
    for ticket in tickets:
        if not ticket.granted and ticket.ahead == 0:
            room = [used + want <= there for used, want, there in zip(pool.used, ticket.amount, CAPACITY, strict=True)]
            assert not all(room), "the head fits and waits"


def drain(pool: NotingPool, tickets: list[Ticket]) -> list[Ticket]:
    """Everybody who has slots leaves, until all have had them; returns the order of the grants."""
    done = len(pool.grants)
    holding = [ticket for ticket in tickets if ticket.granted]
    while holding:
        before = len(pool.grants)
        holding.pop(0).leave()
        holding += pool.grants[before:]
    assert all(ticket.granted for ticket in tickets), "nobody waits in an empty pool"
    return pool.grants[done:]


@given(DEEDS)
def test_slots_are_never_above_capacity_and_a_head_that_fits_never_waits(deeds: Deeds) -> None:
    played(deeds)  # checked at every step


@given(DEEDS)
def test_a_user_is_served_in_the_order_of_its_joining(deeds: Deeds) -> None:
    pool, tickets = played(deeds)
    drain(pool, tickets)
    for user in "abcd":
        mine = [ticket for ticket in tickets if ticket.user == user]
        assert [ticket for ticket in pool.grants if ticket in mine] == mine


@given(DEEDS)
def test_ahead_is_right_when_nobody_else_comes(deeds: Deeds) -> None:
    pool, tickets = played(deeds)
    told = {ticket: ticket.ahead for ticket in tickets if not ticket.granted}
    assert {ticket: place for place, ticket in enumerate(drain(pool, tickets))} == told


@given(DEEDS)
def test_a_newcomer_waits_for_one_grant_of_each_other_user_at_most(deeds: Deeds) -> None:
    pool, tickets = played(deeds)
    blocker = pool.join("blocker", CAPACITY, granted=True)
    newcomer = pool.join("newcomer", (1, 0))
    order = drain(pool, [blocker, *tickets, newcomer])
    before = Counter(ticket.user for ticket in order[: order.index(newcomer)])
    assert all(count <= 1 for count in before.values())


@given(DEEDS, st.randoms())
def test_leaving_in_any_order_and_twice_gives_everything_back(deeds: Deeds, chance: random.Random) -> None:
    pool, tickets = played(deeds)
    chance.shuffle(tickets)
    for ticket in tickets:
        ticket.leave()
        ticket.leave()
    assert pool.idle and pool.used == (0, 0) and pool.waiting == 0


def test_a_head_that_does_not_fit_blocks_the_pool() -> None:
    pool = Pool("pool", 1, (4,))
    held = pool.join("a", (2,))
    large, small = pool.join("b", (3,)), pool.join("c", (1,))
    assert not large.granted and not small.granted
    held.leave()
    assert large.granted and small.granted


def test_slots_from_before_a_restart_are_taken_up_above_a_smaller_capacity() -> None:
    pool = Pool("pool", 1, (1,))
    old = [pool.join("a", (1,), granted=True) for _ in range(3)]
    new = pool.join("b", (1,))
    assert pool.used == (3,) and not new.granted
    for ticket in old:
        assert not new.granted
        ticket.leave()
    assert new.granted


def test_a_full_queue_refuses() -> None:
    pool = Pool("pool", 1, (1,), waiting_max=1)
    pool.join("a", (1,))
    pool.join("a", (1,))
    with pytest.raises(QueueFull):
        pool.join("b", (1,))


async def test_waiting_ends_with_the_grant() -> None:
    pool = Pool("pool", 1, (1,))
    first, second = pool.join("a", (1,)), pool.join("a", (1,))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.wait)
        await trio.testing.wait_all_tasks_blocked()
        first.leave()
    assert second.granted
