"""One Docker engine, called from Trio: docker-py in threads, a deadline on every call, its errors in our words.

A call that nobody waits for any more goes on in its thread until it returns, so each engine has threads of its own: one
that hangs never takes those of another, and never the loop.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import docker
import requests
import trio
from docker import errors
from docker.tls import TLSConfig

from backends.base import BackendError, HostUnreachable
from backends.containers import API_VERSION

T = TypeVar("T")

CALLS_MAX = 8
STREAMS_MAX = 2
CONFLICT = 409

log = logging.getLogger(__name__)


class Missing(BackendError):
    """The engine has no such thing."""


class Taken(BackendError):
    """The name belongs to another thing, or to one that is being made or removed at this moment."""


class Engine:
    """A way to call the engine at this url. `tls` is the files of authority, certificate and key."""

    def __init__(self, url: str, call_s: float, tls: tuple[str, str, str] | None = None) -> None:
        self._url = url
        self._call_s = call_s
        self._tls = tls
        self._client: docker.APIClient | None = None
        self._calls = trio.CapacityLimiter(CALLS_MAX)
        self._streams = trio.CapacityLimiter(STREAMS_MAX)

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """One call of docker-py's APIClient; raises Missing, HostUnreachable or BackendError."""
        patience_s = 2 * self._call_s + options.get("timeout", 0)  # beyond docker-py's own: all threads may hang
        with trio.move_on_after(patience_s):
            return await self._in_thread(partial(self._call, method, *arguments, **options), self._calls)
        raise HostUnreachable(f"{self._url}: no answer within {patience_s:g} s")

    async def run(self, work: Callable[[docker.APIClient], T]) -> T:
        """A piece of work that takes long, such as the loading of an image."""
        return await self._in_thread(lambda: work(self._connected()), self._streams)

    async def _in_thread(self, function: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
        try:
            return await trio.to_thread.run_sync(function, limiter=limiter, abandon_on_cancel=True)
        except errors.NotFound as error:
            raise Missing(_words(error)) from None
        except errors.APIError as error:
            raise (Taken if error.status_code == CONFLICT else BackendError)(_words(error)) from None
        except (requests.exceptions.RequestException, errors.DockerException, OSError) as error:
            raise HostUnreachable(f"{self._url}: {_reason(error)}") from None

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return getattr(self._connected(), method)(*arguments, **options)

    def _connected(self) -> docker.APIClient:
        if self._client is None:
            tls: TLSConfig | bool = False
            if self._tls is not None:
                ca, certificate, key = self._tls
                tls = TLSConfig(client_cert=(certificate, key), ca_cert=ca, verify=True)
            client = docker.APIClient(
                self._url, version=API_VERSION, timeout=self._call_s, tls=tls, max_pool_size=CALLS_MAX + STREAMS_MAX
            )
            client.trust_env = False  # or variables of the environment take the place of our authority
            self._client = client
        return self._client


def _words(error: errors.APIError) -> str:
    return str(error.explanation or error)[:1000].strip()


def _reason(error: Exception) -> str:
    """The innermost error says it in fewest words."""
    while (inner := error.__cause__ or error.__context__) is not None and isinstance(inner, Exception):
        error = inner
    return str(error)[:300] or type(error).__name__
