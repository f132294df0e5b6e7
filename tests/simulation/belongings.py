"""What is promised about a user's library, tokens and tier, told by the rule of a register (register.py)."""

from collections import defaultdict
from collections.abc import Hashable

import trio
from attrs import define, field

from .register import Change, Register
from .universe import Universe

File = tuple[str, str]  # the names of user and file


@define(eq=False)
class Minted:
    """A token whose text somebody has."""

    user: str
    identity: str
    text: str
    expires_wall_s: float
    revoked: Change | None = None


@define(eq=False)
class Belongings:
    """What users have, beside runs."""

    universe: Universe
    files: dict[File, Register] = field(factory=lambda: defaultdict(Register))
    tokens: dict[str, Minted] = field(factory=dict)  # by id

    def told(self, file: File, digest: Hashable, since: float) -> None:
        """Somebody who asked at `since` was told that the name stands for this content (None: for nothing)."""
        possible = self.files[file].possible(since)
        self.universe.check(digest in possible, lambda: f"{file} is {digest}, and can only be {possible}")

    def may_open(self, token: Minted) -> bool:
        """Whether it may open anything: not once its revocation was answered, nor when it has expired."""
        is_revoked = token.revoked is not None and token.revoked.answered < trio.current_time()
        return not is_revoked and self.universe.now().wall_s < token.expires_wall_s

    def must_open(self, token: Minted) -> bool:
        """Whether it must open: nobody ever asked to revoke it, and no clock ever said that it had expired."""
        return token.revoked is None and self.universe.wall_s_max < token.expires_wall_s

    def knocked(self, token: Minted, user: str | None) -> None:
        """Somebody showed it, and was let in as this user, or was not."""
        opened = user is not None
        self.universe.check(user in (None, token.user), lambda: f"C6: a token of {token.user} opened for {user}")
        self.universe.check(opened or not self.must_open(token), lambda: f"a valid token is refused: {token}")
        self.universe.check(not opened or self.may_open(token), lambda: f"C6: a dead token opens: {token}")

    def listed(self, user: str, identities: set[str], before: list[Minted]) -> None:
        """The user's tokens were listed to somebody; `before` that must be there were known."""
        for token in before:
            there = token.identity in identities or not self.must_open(token)
            self.universe.check(there, lambda token=token: f"a valid token is not listed: {token}")
        for identity in identities & self.tokens.keys():
            owner = self.tokens[identity].user
            self.universe.check(owner == user, lambda owner=owner: f"C6: a token of {owner} was listed for {user}")
