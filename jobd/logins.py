"""Logins to clusters: a user's way in, used once. It brings the agent there and is then forgotten, secrets and all;
from then on everything goes through the agent, for as long as that lives.

What is kept of a login is in memory, and says who and since when, never how. After a restart of jobd the agents call
home by themselves. One attempt at a time for each user and cluster, and after one that failed a pause that grows, so
that nobody is locked out by us.
"""

import logging

import trio

from backends.base import BackendError, Credentials, LoginError, Portal
from jobd.agent import Agent
from jobd.errors import LoginActive, LoginFailed, LoginRefused
from jobd.fleet import Fleet
from jobd.hosts import Host
from jobd.places import Place
from jobd.scopes import Notice, Scope, outlive
from jobd.tending import Tending
from jobd.world import backoff
from schemas.records import Instant, UserRecord

log = logging.getLogger(__name__)

PAUSE_S, PAUSE_S_MAX = 1.0, 300.0
REFUSED = ("wrong_credentials", "expired_code", "locked")


class Login:
    """What is known of one user's login at one cluster."""

    def __init__(self) -> None:
        self.username = ""  # the one that was let in last
        self.since: Instant | None = None  # when that was
        self.stage = ""  # of the attempt that goes on; empty: none does
        self.failure: LoginError | None = None  # of the last attempt
        self.failures = 0  # in a row
        self.wait_until = 0.0  # by trio's clock; before that nothing is tried
        self.changed = Notice()

    def tell(self, stage: str) -> None:
        """The attempt has reached this stage; empty: it is over."""
        self.stage = stage
        self.changed.notify()


class Logins:
    """All logins, and the attempts that go on: they outlive the requests that asked for them."""

    def __init__(self, fleet: Fleet, root: Scope) -> None:
        self._fleet = fleet
        self._root = root
        self._logins: dict[tuple[str, str], Login] = {}
        self._nursery: trio.Nursery | None = None

    def of(self, user: str, cluster: str) -> Login:
        """The login of a user, by its id."""
        return self._logins.setdefault((user, cluster), Login())

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Attempts live here."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def begin(self, user: UserRecord, host: Host, credentials: Credentials, login_s: float) -> Login:
        """Begin an attempt; raises LoginActive when there is one, or when it is too soon after one that failed."""
        login = self.of(user.id, host.name)
        left_s = login.wait_until - trio.current_time()
        if login.stage or left_s > 0:
            why = f"One attempt goes on: {login.stage}." if login.stage else "The last one failed; wait a little."
            raise LoginActive(why, retry_after_s=max(1.0, left_s))
        assert self._nursery is not None, "logins run before anything is asked of them"
        login.failure = None
        login.tell("connecting")
        outlive(self._nursery, self._attempt, login, user, host, credentials, login_s, name=f"login at {host.name}")
        return login

    async def _attempt(
        self, login: Login, user: UserRecord, host: Host, credentials: Credentials, login_s: float
    ) -> None:
        portal = host.backend
        assert isinstance(portal, Portal), "clusters are reached through portals"
        try:
            with trio.fail_after(login_s), self._root.group("user", user.name).open("login", host.name) as scope:
                async with portal.session(user.id, credentials, login.tell):
                    agent = self._fleet.want(user, Place(host.name))
                    await Tending(self._fleet, host, agent, scope, login.tell).arrive()
                login.username, login.since = credentials.username, self._fleet.world.now()
                login.failures, login.wait_until = 0, 0.0
        except LoginError as error:
            self._failed(login, error)
        except trio.TooSlowError:
            self._failed(login, LoginError(f"it was not done within {login_s:g} s, while {login.stage}", "timeout"))
        except (BackendError, OSError) as error:
            self._failed(login, LoginError(str(error), "agent_start"))
        finally:
            login.tell("")

    def _failed(self, login: Login, error: LoginError) -> None:
        login.failures += 1
        pause_s = backoff(login.failures, PAUSE_S, PAUSE_S_MAX)
        login.failure, login.wait_until = error, trio.current_time() + pause_s
        log.info("a login failed (%s)", error.code)

    def leave(self, agent: Agent, user: UserRecord, host: Host) -> int:
        """Log out: the agent ends, and what runs goes on unseen. Returns the store's sequence."""
        self._logins.pop((user.id, host.name), None)
        return self._fleet.dismiss(agent, "logged out")


async def outcome(login: Login) -> None:
    """Wait for the end of the attempt; raises LoginRefused or LoginFailed, with the reason's code."""
    while login.stage:
        await login.changed.wait()
    if login.failure is not None:
        kind = LoginRefused if login.failure.code in REFUSED else LoginFailed
        raise kind(str(login.failure), reason=login.failure.code, retry_after_s=PAUSE_S)
