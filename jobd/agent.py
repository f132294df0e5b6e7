"""One agent as jobd knows it: its record, its link if it has one, and the ops that wait for its answers."""

import hashlib
import hmac
import math

import trio

from jobd.errors import QueueFull
from jobd.link import Link, Op
from jobd.scopes import Notice
from schemas.records import AgentRecord, Instant, Slots, UserRecord


class Agent:
    """One agent, whatever its generation."""

    def __init__(self, user: UserRecord, record: AgentRecord, now: Instant) -> None:
        self.user = user
        self.record = record
        self.link: Link | None = None
        self.ops: dict[str, Op] = {}
        self.heard = now  # when a link on which it had answered ended
        self.used = now.boot_s  # when it was last asked for, or had a run
        self.waiting = 0  # requests that wait for it
        self.stage = ""  # what its tending does now
        self.failure = ""  # why it could not be started the last time, with the tail of its log
        self.failures = 0  # starts in a row that failed
        self.slots: Slots | None = None  # of the run that it is for, where agents are enclosed with their runs
        self.fitted: tuple[str, Slots] | None = None  # the handle whose enclosure has room for these
        self.linked_at = -math.inf  # when its last link ended, by trio's clock
        self.changed = Notice()

    def accepts(self, token: str) -> bool:
        """Whether this is the token of its newest generation; compared in constant time."""
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        return hmac.compare_digest(digest, self.record.token_sha256)

    def fits(self, slots: Slots) -> bool:
        """Whether its enclosure has been given the size of such a run."""
        return self.fitted == (self.record.handle, slots)

    def connect(self, link: Link) -> None:
        """A Hello was accepted on this link; it replaces an older one that may be half-open."""
        if self.link is not None:
            self.link.close()
            self._lose_ops()
        self.link = link
        self.failure, self.failures = "", 0
        self.changed.notify()

    def disconnect(self, link: Link, now: Instant) -> None:
        """The link has ended; the ops that rode on it are lost."""
        if self.link is link:
            self.link = None
            if link.answered is not None:
                self.heard = now
            self.linked_at = trio.current_time()
            self._lose_ops()
            self.changed.notify()

    def _lose_ops(self) -> None:
        for op in list(self.ops.values()):
            op.lose()

    def open_op(self, op: str, ops_max: int) -> Op:
        """Room for one more op on the link that is there; raises QueueFull."""
        assert self.link is not None, "ops are opened after Connected"
        if len(self.ops) >= ops_max:
            raise QueueFull(f"The agent has {ops_max} questions open.", limit=ops_max, retry_after_s=1.0)
        return Op(op, self.ops, self.link)
