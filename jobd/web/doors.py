"""Who calls, and may they: the doors of the API and the principals that enter by them.

The gateway's web server proves itself by the service token, a user's own program by a token that was minted for it, an
operator by an operator's token or by having opened the admin socket, whose file permissions are the credentials. What
proves nothing is 401; what is not theirs is 403, without telling what exists.
"""

import hashlib
import hmac
from collections.abc import Iterable
from math import inf
from typing import Literal

from attrs import field, frozen

from jobd.errors import Forbidden, Unauthorized
from jobd.tokens import Tokens

Headers = Iterable[tuple[bytes, bytes]]
May = Literal["anyone", "read", "write", "gateway", "operator"]


@frozen
class Principal:
    """Who calls. A user's principal is bound to the user, perhaps to one job, perhaps to reading."""

    kind: Literal["gateway", "operator", "user"]
    user: str = ""
    job: str | None = None
    read_only: bool = False
    expires_wall_s: float = inf
    digest: str = field(default="", repr=False)  # of the minted token that proved it, if one did

    def check(self, may: May, user: str | None, job: str | None) -> None:
        """Raises Forbidden unless this principal may do this with the user and job that the path names."""
        if self.kind == "operator" or may == "anyone":
            return
        if may == "operator":
            raise Forbidden
        if self.kind == "gateway":
            return
        is_theirs = user in (None, self.user) and (self.job is None or job == self.job or user is None)
        if may == "gateway" or not is_theirs or (self.read_only and may == "write"):
            raise Forbidden

    def actor(self, user: str) -> str:
        """In the words of a cause."""
        return f"gateway for {user}" if self.kind == "gateway" else self.user or self.kind


@frozen
class Door:
    """One listener's rule: the service token's SHA-256, or none where whoever came in is an operator."""

    name: str
    token_sha256: str | None = field(repr=False)
    tokens: Tokens | None = field(default=None, repr=False)

    def enter(self, headers: Headers) -> Principal:
        """The principal of a request; raises Unauthorized."""
        if self.token_sha256 is None:
            return Principal("operator")
        digest = _digest(headers)
        if hmac.compare_digest(digest, self.token_sha256):
            return Principal("gateway")
        record = self.tokens.find(digest) if self.tokens else None
        if record is None:
            raise Unauthorized
        if record.role == "operator":
            return Principal("operator", expires_wall_s=record.expires_wall_s, digest=digest)
        return Principal("user", record.user, record.job, record.read_only, record.expires_wall_s, digest)


def _digest(headers: Headers) -> str:
    said = [value for name, value in headers if name.lower() == b"authorization"]
    if len(said) == 1 and said[0][:7].lower() == b"bearer ":  # two are none: a proxy may have looked at the other one
        return hashlib.sha256(said[0][7:]).hexdigest()
    raise Unauthorized
