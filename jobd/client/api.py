"""Every call of the API, once, as coroutines over a wire; the two clients are made of them."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from math import inf
from pathlib import Path
from typing import Any

from jobd.client.events import Event, parse
from jobd.client.exchange import ANSWER_S, RETRY_S, Answer, Interrupted, decoded, digest, given, timeout
from jobd.client.operators import OperatorCalls
from jobd.client.paths import file_path, job_path, login_path, named, user_path
from jobd.client.wire import JobdClientError, Source
from schemas import codec
from schemas.api import BatchRequest, Input, LoginRequest, Resources, RunRequest, TimeLimits
from schemas.clusterviews import ClustersView, LoginView
from schemas.records import Mode
from schemas.views import (
    CodesView,
    ExplainView,
    FileView,
    HistoryView,
    JobsView,
    LibraryView,
    ListingView,
    PastRunView,
    RunView,
    SeriesView,
    SessionView,
    TokensView,
    TokenView,
    UserUsageView,
    UserView,
)

POLL_S = 60.0  # one long poll
OVER = ("completed", "failed", "canceled")


class Api(OperatorCalls):
    """The calls. All raise ProblemError, UnreachableError, and where it says so UncertainError."""

    # --- runs

    async def run(
        self,
        user: str,
        job: str,
        code: str,
        *,
        mode: Mode = "sequential",
        inputs: Mapping[str, str | Input] | None = None,
        resources: Resources = Resources(),
        limits: TimeLimits = TimeLimits(),
        batch: BatchRequest | None = None,
        force: bool = False,
        supersede: bool = False,
    ) -> RunView:
        """Start the job's run, or have the one that is there with the same inputs. A text is a file's content;
        Input(library=...) names a file of the user's library. Mode batch has `batch`, which names the cluster."""
        files = {path: Input(text=each) if isinstance(each, str) else each for path, each in (inputs or {}).items()}
        body = codec.to_data(
            RunRequest(code, mode, files, resources, limits, batch, force, supersede, secrets.token_hex())
        )
        return await self._get(RunView, "PUT", f"{job_path(user, job)}/run", json=body)

    async def status(self, user: str, job: str) -> RunView:
        """The status of the job's newest run."""
        return await self._get(RunView, "GET", job_path(user, job))

    async def result(self, user: str, job: str, *, deadline_s: float = inf) -> RunView:
        """The status once the newest run is over and its end confirmed, or at once when there is none; raises
        TimeoutError at the deadline."""
        return await self._when(user, job, _final, deadline_s)

    async def _when(self, user: str, job: str, reached: Callable[[RunView], bool], deadline_s: float = inf) -> RunView:
        """The status once this is true of it, by long polls."""
        until, tag = time.monotonic() + deadline_s, ""
        while True:
            left_s = min(POLL_S, until - time.monotonic())
            if left_s < 0:
                raise TimeoutError(f"{user}/{job} is not over after {deadline_s:g} s")
            headers = {"if-none-match": tag, "prefer": f"wait={int(left_s) + 1}"} if tag else {}
            reply = await self._ask("GET", job_path(user, job), headers=headers, timeout=timeout(left_s + ANSWER_S))
            if reply.status == 304:
                continue
            if reached(view := decoded(reply, RunView)):
                return view
            if not (tag := reply.headers.get("etag", "")):
                raise JobdClientError("jobd's reply has no ETag")

    async def cancel(self, user: str, job: str, serial: int | None = None, reason: str = "") -> RunView:
        """Cancel the run; the status says what is confirmed gone. Without `serial` it is not repeated, since that could
        end a later run: raises UncertainError."""
        body, path = {"reason": reason} | given(serial=serial), f"{job_path(user, job)}/cancel"
        return await self._get(RunView, "POST", path, repeat=serial is not None, json=body)

    async def delete(self, user: str, job: str) -> RunView:
        """Purge the job's runs and files; raises UncertainError, since to repeat it could purge a later run."""
        return await self._get(RunView, "DELETE", job_path(user, job), repeat=False)

    async def jobs(
        self, user: str | None = None, *, state: str | None = None, code: str | None = None
    ) -> AsyncGenerator[RunView, None]:
        """The user's jobs, each with its newest run, page after page; for operators, without a user, everybody's."""
        path, after = f"{user_path(user)}/jobs" if user is not None else "/v1/admin/jobs", ""
        while True:
            page = await self._get(JobsView, "GET", path, params=given(state=state, code=code, after=after or None))
            for view in page.jobs:
                yield view
            if page.next is None:
                return
            after = page.next

    async def runs(self, user: str, job: str) -> AsyncGenerator[PastRunView, None]:
        """The job's kept runs, newest first, page after page."""
        before: int | None = None
        while True:
            page = await self._get(HistoryView, "GET", f"{job_path(user, job)}/runs", params=given(before=before))
            for view in page.runs:
                yield view
            if page.next is None:
                return
            before = page.next

    async def explain(self, user: str, job: str, serial: int | None = None) -> ExplainView:
        """Why the run waits, or why it ended."""
        return await self._get(ExplainView, "GET", f"{job_path(user, job)}/explain", params=given(serial=serial))

    async def events(self, user: str, job: str, last: int | None = None) -> AsyncGenerator[Event, None]:
        """The job's events from now on, or after the stage `last`; lost connections and restarts of jobd are only
        pauses, so it never ends by itself."""
        while True:
            headers = given(**{"last-event-id": None if last is None else str(last)})
            with suppress(Interrupted):
                async with aclosing(parse(self._pieces(f"{job_path(user, job)}/events", headers=headers))) as events:
                    async for event in events:
                        if event.number is not None:
                            last = event.number
                        elif last is None and (status := event.status):
                            last = status.timeline[-1].number if status.timeline else 0
                        yield event
            await self._wire.sleep(RETRY_S)

    # --- what a run left and shows

    async def frame(
        self,
        user: str,
        job: str,
        view: str,
        index: int | str = "latest",
        *,
        format: str = "json",
        width: int | None = None,
        serial: int | None = None,
    ) -> Answer:
        """One frame of a running or finished run; which formats and widths there are is up to the code."""
        path = f"{job_path(user, job)}/frames/{named('view', view)}/{named('index', str(index))}"
        return await self._answer("GET", path, params=given(serial=serial, format=format, width=width))

    async def analysis(
        self, user: str, job: str, method: str, arguments: Any = None, *, serial: int | None = None
    ) -> Answer:
        """One question to the code's analysis worker about a run."""
        path = f"{job_path(user, job)}/analysis/{named('method', method)}"
        return await self._answer("POST", path, json=given(arguments=arguments, serial=serial))

    async def compute(self, user: str, code: str, method: str, arguments: Any = None) -> Answer:
        """A question to a code, about no job."""
        path = f"{user_path(user)}/compute/{named('code', code)}/{named('method', method)}"
        return await self._answer("POST", path, json=given(arguments=arguments))

    async def series(self, user: str, job: str, serial: int | None = None) -> SeriesView:
        """The run's kept scalars."""
        return await self._get(SeriesView, "GET", f"{job_path(user, job)}/metrics", params=given(serial=serial))

    async def files(self, user: str, job: str, serial: int | None = None) -> ListingView:
        """The files of the run directory."""
        return await self._get(ListingView, "GET", f"{job_path(user, job)}/files", params=given(serial=serial))

    async def file(self, user: str, job: str, path: str, to: Path, serial: int | None = None) -> int:
        """Download a file as it is now to `to`; returns its size in bytes. A lost connection is resumed."""
        return await self._download(f"{job_path(user, job)}/files/{file_path(path)}", to, given(serial=serial))

    async def log(
        self, user: str, job: str, *, follow: bool = False, serial: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The run's log; with `follow`, what it writes from its start to its end, over restarts of jobd."""

        def begun(now: RunView) -> bool:
            return not follow or now.state != "pending" or serial not in (None, now.serial)

        view = await self._when(user, job, begun)
        path, params, sent = f"{job_path(user, job)}/log", given(serial=serial or view.serial), 0
        if not follow:
            async with aclosing(self._resumed(path, params)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        while True:
            params |= {"follow": "1", "offset": sent}
            with suppress(Interrupted):
                async with aclosing(self._pieces(path, params=params)) as pieces:
                    async for piece in pieces:
                        sent += len(piece)
                        yield piece
                return

    # --- the library

    async def upload(self, user: str, name: str, source: Source) -> FileView:
        """Store a library file; raises JobdClientError when what arrived is not what was sent."""
        sent = await self._wire.hop(digest, source)
        path = f"{user_path(user)}/library/{named('name', name)}"
        view = await self._get(FileView, "PUT", path, source=source)
        if view.sha256 != sent:
            raise JobdClientError(f"{name} arrived with SHA-256 {view.sha256}, not {sent}: did it change meanwhile?")
        return view

    async def download(self, user: str, name: str, to: Path) -> int:
        """Download a library file to `to`; returns its size in bytes."""
        return await self._download(f"{user_path(user)}/library/{named('name', name)}", to, {})

    async def library(self, user: str) -> LibraryView:
        """The user's library files."""
        return await self._get(LibraryView, "GET", f"{user_path(user)}/library")

    async def remove(self, user: str, name: str) -> None:
        """Take a name off the library; accepted runs keep its content."""
        await self._ask("DELETE", f"{user_path(user)}/library/{named('name', name)}", repeat=False)

    # --- the user and the site

    async def session(self, user: str, code: str | None = None) -> SessionView:
        """The user is here: warm the agent up."""
        return await self._get(SessionView, "POST", f"{user_path(user)}/session", json=given(code=code))

    async def login(
        self, user: str, cluster: str, username: str, *, password: str = "", code: str = "", key: str = "",
        passphrase: str = "",
    ) -> LoginView:  # fmt: skip
        """Log the user in to a cluster, by password and perhaps a one-time code, or by a private key; returns when the
        agent is there. Raises UncertainError."""
        body = codec.to_data(LoginRequest(username, password, code, key, passphrase))
        return await self._get(LoginView, "POST", login_path(user, cluster), repeat=False, json=body)

    async def logged(self, user: str, cluster: str) -> LoginView:
        """State and age of the user's login at a cluster."""
        return await self._get(LoginView, "GET", login_path(user, cluster))

    async def logout(self, user: str, cluster: str) -> None:
        """End the login; what runs there goes on, unseen until the next."""
        await self._ask("DELETE", login_path(user, cluster), repeat=False)

    async def set_tier(self, user: str, tier: str) -> UserView:
        """Set what the user may have."""
        return await self._get(UserView, "PUT", user_path(user), json={"tier": tier})

    async def usage(self, user: str, after: str = "") -> UserUsageView:
        """What the user has used, and one page of the jobs that used it."""
        return await self._get(UserUsageView, "GET", f"{user_path(user)}/usage", params=given(after=after or None))

    async def mint(
        self, user: str, lifetime_s: float = 3600.0, *, job: str | None = None, read_only: bool = False
    ) -> TokenView:
        """A token for a user's own program or browser, perhaps for one job, perhaps to read; raises UncertainError."""
        body = given(lifetime_s=lifetime_s, job=job) | {"read_only": read_only}
        return await self._get(TokenView, "POST", f"{user_path(user)}/tokens", repeat=False, json=body)

    async def tokens(self, user: str | None = None) -> TokensView:
        """The valid tokens of a user, or without one of the operators."""
        return await self._get(TokensView, "GET", f"{user_path(user) if user is not None else '/v1/admin'}/tokens")

    async def revoke(self, token: str, user: str | None = None) -> None:
        """Revoke a token by its id."""
        path = f"{user_path(user) if user is not None else '/v1/admin'}/tokens/{named('token', token)}"
        await self._ask("DELETE", path, repeat=False)

    async def codes(self) -> CodesView:
        """What the site offers."""
        return await self._get(CodesView, "GET", "/v1/codes")

    async def clusters(self) -> ClustersView:
        """The clusters that the site offers."""
        return await self._get(ClustersView, "GET", "/v1/clusters")

    async def metrics(self) -> str:
        """jobd's own metrics, in Prometheus' text format."""
        return (await self._ask("GET", "/metrics")).body.decode(errors="replace")


def _final(view: RunView) -> bool:
    return view.state == "missing" or (view.state in OVER and bool(view.end_confirmed))
