"""Serve one ASGI app on ready sockets, so that no peer and no handler can end, fill or hold up the daemon.

Place: the composition root binds sockets and calls serve_http() once per app (public TCP, admin unix socket) in one
nursery; below stand the connections (connection.py), above the apps of jobd/web. It takes the place of
hypercorn.trio.serve, which is not safe for a daemon: tests/test_web_server.py shows each hazard on it. Invariants:
- Nothing but Cancelled (and KeyboardInterrupt) leaves a connection: errors are logged, the others go on.
- After a cancel it returns within stop_grace_s (a handler that shields itself without a deadline breaks this, and a
  house rule). No lifespan is spoken: what outlives a request belongs to the supervisor's nurseries.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio
from hypercorn import typing as asgi

from jobd.web.connection import Connection, Limits, Service

LOG = logging.getLogger(__name__)

REFUSED_MAX = 64  # connections beyond connections_max that still hear why they are refused


async def serve_http(
    app: asgi.ASGIFramework,
    listeners: Sequence[trio.SocketListener],
    limits: Limits,
    *,
    state: Mapping[str, object] | None = None,
    is_hot: Callable[[str], bool] = lambda _path: False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; `state` (which door this is) goes into each scope["state"]. Closes the listeners.

    A GET of a path that `is_hot` may be answered in its connection's own task: its handler must neither stream nor
    wait for anything but the store.
    """
    service = Service(app, limits, state or {}, is_hot)
    stopped = trio.Event()

    async def accept(connections: trio.Nursery, grace: trio.CancelScope) -> None:
        try:
            await trio.serve_listeners(partial(_serve, service), list(listeners), handler_nursery=connections)
        finally:
            grace.deadline = trio.current_time() + limits.stop_grace_s
            service.stopping = True
            for connection in service.connections:
                connection.stop_if_idle()
            stopped.set()

    async with trio.open_nursery() as outer:
        # accept() hears a cancel at once; the connections, behind the shield, only at the end of their grace.
        with trio.CancelScope(shield=True) as grace:
            async with trio.open_nursery() as connections:
                outer.start_soon(accept, connections, grace)
                task_status.started()
                await stopped.wait()


async def _serve(service: Service, stream: trio.SocketStream) -> None:
    """One connection; whatever goes wrong in it ends here."""
    crowd = len(service.connections) - service.limits.connections_max
    if crowd >= REFUSED_MAX:
        return
    try:
        connection = Connection(service, stream, busy=crowd >= 0)
        service.connections.add(connection)
        try:
            await connection.run()
        finally:
            service.connections.discard(connection)
    except* OSError as errors:  # reset before we asked for its name
        LOG.debug("a connection broke", exc_info=errors)
    except* Exception as errors:
        LOG.exception("a connection failed", exc_info=errors)
