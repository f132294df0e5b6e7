"""Minted tokens: a user's, for a browser or program of theirs, and an operator's, for a program of the site.

Only hashes are kept, in memory and in the store. A token's text is said once, in the reply that minted it, and is found
again by its SHA-256, so nothing secret is ever compared. Expiry is by the wall clock: it is a promise to people.
"""

import hashlib
from collections.abc import Iterable

from jobd.errors import QuotaReached
from jobd.scopes import Notice
from jobd.store import Delete, Store
from jobd.world import World
from schemas.records import TokenRecord


class Tokens:
    """Every token that has not expired."""

    def __init__(self, store: Store, world: World, per_user_max: int) -> None:
        self._store = store
        self._world = world
        self._per_user_max = per_user_max
        self._by_digest: dict[str, TokenRecord] = {}
        self.changed = Notice()  # some token opens nothing any more

    def restore(self, records: Iterable[TokenRecord]) -> None:
        """Take up what the store remembers."""
        self._by_digest = {record.sha256: record for record in records}

    def find(self, digest: str) -> TokenRecord | None:
        """The token with this SHA-256, unless it has expired."""
        record = self._by_digest.get(digest)
        return record if record and record.expires_wall_s > self._world.now().wall_s else None

    def of(self, user: str) -> list[TokenRecord]:
        """The valid tokens of this user, or with an empty name the operators'."""
        now = self._world.now().wall_s
        return [each for each in self._by_digest.values() if each.user == user and each.expires_wall_s > now]

    def mint(self, user: str, lifetime_s: float, job: str | None, read_only: bool) -> tuple[TokenRecord, str]:
        """A new token for a user (an operator's with an empty name), with its text; raises QuotaReached."""
        self._forget_expired()
        if len(self.of(user)) >= self._per_user_max:
            raise QuotaReached(f"There are {self._per_user_max} valid tokens.", limit=self._per_user_max)
        text = self._world.new_token()
        record = TokenRecord(
            id=self._world.new_id("k"),
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            role="user" if user else "operator",
            user=user,
            job=job,
            read_only=read_only,
            expires_wall_s=self._world.now().wall_s + lifetime_s,
        )
        self._by_digest[record.sha256] = record
        self._store.put(record)
        return record, text

    def revoke(self, user: str, token: str) -> bool:
        """From now on it opens nothing; False if the user has no token of this id."""
        for record in self.of(user):
            if record.id == token:
                self._forget(record)
                return True
        return False

    def _forget_expired(self) -> None:
        now = self._world.now().wall_s
        for record in [each for each in self._by_digest.values() if each.expires_wall_s <= now]:
            self._forget(record)

    def _forget(self, record: TokenRecord) -> None:
        del self._by_digest[record.sha256]
        self._store.put(Delete(TokenRecord, record.id))
        self.changed.notify()
