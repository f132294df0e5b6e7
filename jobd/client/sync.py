"""From a coroutine that never suspends to a plain call."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from jobd.client.api import Api

P = ParamSpec("P")
T = TypeVar("T")


class _Blocking(Protocol):
    _api: Api


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("a blocking wire never suspends")


def blocking(method: Callable[Concatenate[Api, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """The method of Api as one that blocks."""

    @wraps(method)
    def call(self: _Blocking, /, *arguments: P.args, **options: P.kwargs) -> T:
        return finish(method(self._api, *arguments, **options))

    return call


def blocking_iterator(
    method: Callable[Concatenate[Api, P], AsyncIterator[T]],
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """The generator of Api as one that blocks."""

    @wraps(method)
    def call(self: _Blocking, /, *arguments: P.args, **options: P.kwargs) -> Iterator[T]:
        items: Any = method(self._api, *arguments, **options)
        try:
            while True:
                try:
                    item = finish(anext(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            finish(items.aclose())

    return call
