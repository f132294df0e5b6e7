"""The client of jobd's API, for gateways and for programs of their users: `Client`, and `TrioClient` for Trio programs.

    with Client("http://127.0.0.1:8080", token=token) as jobd:
        jobd.run("alice", "melt", "lammps", inputs={"in.lammps": deck})
        for event in jobd.events("alice", "melt"):
            ...

Both have the same methods; they are written once, in `api.Api`, as coroutines over a `wire` that either awaits or
blocks. What is safe to repeat is repeated while jobd restarts, for `patience_s`; what is not, only while it cannot have
been heard. Replies are the classes of `schemas.views`.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from jobd.client.api import Api
from jobd.client.events import Event
from jobd.client.exchange import Answer
from jobd.client.sync import blocking, blocking_iterator, finish
from jobd.client.wire import (
    BlockingWire,
    JobdClientError,
    ProblemError,
    TrioWire,
    UncertainError,
    UnreachableError,
)
from schemas.api import BatchRequest, Input, Resources, TimeLimits

__all__ = [
    "Answer",
    "BatchRequest",
    "Client",
    "Event",
    "Input",
    "JobdClientError",
    "ProblemError",
    "Resources",
    "TimeLimits",
    "TrioClient",
    "UncertainError",
    "UnreachableError",
]

PATIENCE_S = 30.0
CONNECTIONS_MAX = 1000  # each event stream and long poll is one
IDLE_CONNECTIONS_MAX = 20


class TrioClient(Api):
    """For Trio programs; see Client for what it takes. Use it in `async with`."""

    def __init__(
        self, url: str = "", *, token: str = "", socket: Path | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False) if socket else None
        super().__init__(TrioWire(httpx.AsyncClient(transport=transport, **_options(url, token))), patience_s)

    async def __aenter__(self) -> "TrioClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._wire.close()


class Client:
    """Speaks for one principal: with `token` for the gateway's web server or a user, over the admin `socket` for an
    operator. `patience_s` is how long a call waits for a daemon that does not answer, a restart included. Threads may
    share it. The methods are described in `api.Api`.
    """

    def __init__(
        self, url: str = "", *, token: str = "", socket: Path | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        transport = httpx.HTTPTransport(uds=str(socket), verify=False) if socket else None
        self._wire = BlockingWire(httpx.Client(transport=transport, **_options(url, token)))
        self._api = Api(self._wire, patience_s)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finish(self._wire.close())

    run = blocking(Api.run)
    status = blocking(Api.status)
    result = blocking(Api.result)
    cancel = blocking(Api.cancel)
    delete = blocking(Api.delete)
    jobs = blocking_iterator(Api.jobs)
    runs = blocking_iterator(Api.runs)
    explain = blocking(Api.explain)
    events = blocking_iterator(Api.events)
    frame = blocking(Api.frame)
    analysis = blocking(Api.analysis)
    compute = blocking(Api.compute)
    series = blocking(Api.series)
    files = blocking(Api.files)
    file = blocking(Api.file)
    log = blocking_iterator(Api.log)
    upload = blocking(Api.upload)
    download = blocking(Api.download)
    library = blocking(Api.library)
    remove = blocking(Api.remove)
    session = blocking(Api.session)
    login = blocking(Api.login)
    logged = blocking(Api.logged)
    logout = blocking(Api.logout)
    set_tier = blocking(Api.set_tier)
    usage = blocking(Api.usage)
    mint = blocking(Api.mint)
    tokens = blocking(Api.tokens)
    revoke = blocking(Api.revoke)
    codes = blocking(Api.codes)
    clusters = blocking(Api.clusters)
    metrics = blocking(Api.metrics)
    agents = blocking(Api.agents)
    stop_agent = blocking(Api.stop_agent)
    forget_agent = blocking(Api.forget_agent)
    hosts = blocking(Api.hosts)
    drain = blocking(Api.drain)
    pools = blocking(Api.pools)
    tree = blocking(Api.tree)
    mint_operator = blocking(Api.mint_operator)


def _options(url: str, token: str) -> dict[str, Any]:
    credentials = {"authorization": f"Bearer {token}"} if token else {}
    return {
        "base_url": url or "http://jobd",
        "headers": {"accept-encoding": "identity", **credentials},
        "limits": httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=IDLE_CONNECTIONS_MAX),
        "trust_env": False,
        "verify": httpx.URL(url).scheme == "https",  # only then: to load the certificates takes 20 ms
    }
