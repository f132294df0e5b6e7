"""A tab with the user's other belongings: session, tier, usage, tokens, the library, and questions without a job."""

import hashlib
import json
from typing import Any

import trio

from jobd import plans
from jobd.core import Core
from jobd.delivery import Collected
from jobd.errors import NotFound
from jobd.files import Stored
from schemas.api import ComputeRequest, SessionRequest, TokenRequest, UserRequest
from schemas.records import TokenRecord

from .belongings import Minted
from .register import Change
from .tab import DEADLINE_S, Deed, Tab

LIBRARY = ("f0", "f1", "f2", "f3")
TIERS = ("default", "small", "large")
CONTENTS = tuple(Stored(hashlib.sha256(bytes([number])).hexdigest(), 10 * number) for number in range(5))


class AccountTab(Tab):
    """See the module."""

    @property
    def deeds(self) -> list[tuple[float, Deed]]:
        """See Tab."""
        weigh = self.universe.chance.random
        return [
            (weigh() / 3, self.session),
            (weigh() / 3, self.compute),
            (weigh() / 4, self.set_tier),
            (weigh() / 2, self.usage),
            (weigh() / 3, self.mint),
            (weigh() / 4, self.revoke),
            (weigh() / 4, self.list_tokens),
            (weigh() / 2, self.knock),
            (weigh(), self.shelve),
            (weigh() / 4, self.unshelve),
            (weigh() / 4, self.find),
            (weigh() / 4, self.shelf),
        ]

    async def session(self, _job: str) -> None:
        """POST session."""
        ask = SessionRequest(self.universe.chance.choice([None, "sim", "sim", "nothing"]))
        view, _ = await self.ask(lambda core: plans.session(core, self.user, ask), "", "session")
        self.universe.check(bool(view.stage), lambda: f"a session of {self.user} was answered {view}")

    async def compute(self, _job: str) -> None:
        """POST compute."""
        sink, number = Collected(), self.universe.chance.randrange(1000)
        ask = ComputeRequest({"number": number})
        await self.ask(lambda core: plans.compute(core, self.user, "sim", "square", ask, sink), "", "compute", 60.0)
        result: Any = json.loads(b"".join(sink.pieces))
        good = self.oracle.users[result[0]] == self.user and result[1] == {"number": number}
        self.universe.check(good, lambda: f"C6: {self.user} was answered {result}")

    async def set_tier(self, _job: str) -> None:
        """PUT user."""
        tier = self.universe.chance.choice(TIERS)
        register = self.oracle.tiers[self.user]
        change = register.change(tier)
        await self.ask(lambda core: plans.set_tier(core, self.user, UserRequest(tier)), "", "set tier")
        register.answered(change)

    async def usage(self, _job: str) -> None:
        """GET usage."""
        ended, before = self.oracle.ended_of(self.user), self.answers.used.get(self.user, (0, 0.0, 0.0))
        view, since = await self.ask(lambda core: plans.usage(core, self.user, "", 100), "", "usage")
        self.answers.usage(view, ended, before)
        possible = self.oracle.tiers[self.user].possible(since)
        self.universe.check(view.tier in possible, lambda: f"{self.user} has tier {view.tier}, not one of {possible}")

    # --- tokens -----------------------------------------------------------------------------------------------------

    async def mint(self, job: str) -> None:
        """POST tokens."""
        chance = self.universe.chance
        ask = TokenRequest(chance.choice([5.0, 60.0, 3600.0, 86400.0]), chance.choice([None, job]))
        view, _ = await self.ask(lambda core: plans.mint(core, self.user, ask), "", "mint a token")
        assert view.token is not None, "the reply that mints holds the text"
        (record,) = [each for each in self.daemon.platter.select(TokenRecord) if each.id == view.id]
        self.universe.check(
            record.sha256 == _digest(view.token) and record.user == self.user,
            lambda: f"minted for {self.user}, on disk: {record}",
        )
        self.belongings.tokens[view.id] = Minted(self.user, view.id, view.token, record.expires_wall_s)

    async def revoke(self, _job: str) -> None:
        """DELETE a token, of this user or, in vain, of another."""
        if not self.belongings.tokens:
            return
        token = self.universe.chance.choice(list(self.belongings.tokens.values()))
        if token.user == self.user and token.revoked is None:
            token.revoked = Change(True, trio.current_time())
        await self.ask(lambda core: plans.revoke(core, self.user, token.identity), "", "revoke a token")
        self.universe.check(token.user == self.user, lambda: f"C6: {self.user} revoked {token}")
        if token.revoked is not None:
            token.revoked.answered = min(token.revoked.answered, trio.current_time())

    async def list_tokens(self, _job: str) -> None:
        """GET tokens."""
        before = [each for each in self.belongings.tokens.values() if each.user == self.user]
        view, _ = await self.ask(lambda core: plans.tokens(core, self.user), "", "list tokens")
        self.belongings.listed(self.user, {each.id for each in view.tokens}, before)

    async def knock(self, _job: str) -> None:
        """Show a token at the door."""
        if not self.belongings.tokens:
            return
        token = self.universe.chance.choice(list(self.belongings.tokens.values()))

        async def show(core: Core) -> TokenRecord | None:
            return core.tokens.find(_digest(token.text))

        record = await self.daemon.call(show, "show a token", DEADLINE_S)
        self.belongings.knocked(token, record.user if record else None)

    # --- the library ------------------------------------------------------------------------------------------------

    async def shelve(self, _job: str) -> None:
        """PUT library: the content is there already, now it gets its name."""
        chance = self.universe.chance
        name, stored = chance.choice(LIBRARY), chance.choice(CONTENTS)
        register = self.belongings.files[self.user, name]
        change = register.change(stored.sha256)
        await self.ask(lambda core: plans.shelve(core, self.user, name, stored), "", "put a file")
        register.answered(change)

    async def unshelve(self, _job: str) -> None:
        """DELETE library."""
        name = self.universe.chance.choice(LIBRARY)
        register = self.belongings.files[self.user, name]
        change = register.change(None)
        await self.ask(lambda core: plans.unshelve(core, self.user, name), "", "delete a file")
        register.answered(change)

    async def find(self, _job: str) -> None:
        """HEAD library."""
        name, since = self.universe.chance.choice(LIBRARY), trio.current_time()
        try:
            view, _ = await self.ask(lambda core: plans.find(core, self.user, name), "", "find a file")
        except NotFound:
            self.belongings.told((self.user, name), None, since)
            raise
        self.belongings.told((self.user, name), view.sha256, since)

    async def shelf(self, _job: str) -> None:
        """GET library."""
        view, since = await self.ask(lambda core: plans.shelf(core, self.user), "", "list files")
        there = {file.name: file.sha256 for file in view.files}
        self.universe.check(there.keys() <= set(LIBRARY), lambda: f"C6: {self.user} was told of {view}")
        for name in LIBRARY:
            self.belongings.told((self.user, name), there.get(name), since)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
