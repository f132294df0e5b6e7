"""The real daemon: the core with its real parts, and its doors: the API, the admin socket, the agents' sockets."""

import gc
import hashlib
import logging
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import trio

from jobd.bulk import serve_bulk
from jobd.clusters import load_clusters
from jobd.codes import load_codes
from jobd.config import Config, ConfigError, Http
from jobd.core import SHUTDOWN, Core
from jobd.facts import serve_link
from jobd.gateway import UnixGateway
from jobd.hosting import cluster_hosts, hosts_of
from jobd.metrics import watch_lag
from jobd.sqlite import SqliteDisk
from jobd.store import Memory
from jobd.supervisor import locked, running
from jobd.tls import TlsGateway, tls_listeners
from jobd.web.app import control_app
from jobd.web.connection import Limits
from jobd.web.doors import Door
from jobd.web.front import front, hot_paths
from jobd.web.routes import ROUTES
from jobd.web.server import serve_http
from jobd.world import RealWorld
from schemas.codec import CodecError
from schemas.ids import new_token

log = logging.getLogger(__name__)

STOPS = (signal.SIGTERM, signal.SIGINT)
BACKLOG = 1024
SOCKET_PATH_BYTES_MAX = 100


def service_token(config: Config) -> str:
    """The gateway's token, from its file; the default file is made at the first start, readable by its owner only."""
    path = Path(config.http.token_file or config.directory / "service-token")
    if not path.exists() and not config.http.token_file:
        write_whole(path, new_token() + "\n", 0o600)
    try:
        token = path.read_text().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"http.token_file: {path} is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"http.token_file: {path}: {error.strerror}") from None
    if len(token) < 16:
        raise ConfigError(f"{path} must hold a token of at least 16 characters")
    return token


def write_whole(path: Path, text: str, mode: int) -> None:
    """Write a file so that whoever sees it sees all of it."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    draft.rename(path)


def open_store(path: Path, reserve_bytes: int = 0) -> tuple[SqliteDisk, Memory]:
    """The store and what must be in memory of it; raises ConfigError when the file is damaged, or too new."""
    try:
        disk = SqliteDisk(path, reserve_bytes)
        return disk, disk.load()
    except (OSError, sqlite3.Error, CodecError, RuntimeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def check_paths(config: Config) -> None:
    """Unix socket paths end at about 100 bytes; raises ConfigError before anything is made."""
    longest = config.directory.absolute() / "agents" / "a234567abc" / "control.sock"
    if len(str(longest).encode()) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(f"state: the path is too long for unix sockets: {longest} is over {SOCKET_PATH_BYTES_MAX}")


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT; then detach from all that runs, and return."""
    with trio.open_signal_receiver(*STOPS) as signals:
        await _serve(config, signals)


async def _serve(config: Config, signals: AsyncIterator[int]) -> None:
    check_paths(config)
    with locked(config.directory):
        disk, memory = open_store(config.directory / "jobd.sqlite", config.store.reserve_bytes)
        gateway = UnixGateway(config.directory, config.agents)
        in_docker = bool(config.docker.hosts)
        codes = load_codes(Path(config.codes), config.codes_prefix or sys.prefix, in_docker=in_docker)
        sites = load_clusters(Path(config.clusters), Path(config.codes)) if config.clusters else {}
        hosts = hosts_of(config, codes)
        for each in cluster_hosts(config, sites):
            hosts.add(each)
        core = Core(config, codes, RealWorld(), disk, hosts, gateway, sites)
        core.files.prepare()
        tls = None
        if config.tls:
            tls = TlsGateway(config.tls, config.agents, core.fleet.agents.values, core.fleet.is_remote)
        for way in (gateway, tls) if tls else (gateway,):
            way.serve = partial(serve_link, core)
            way.serve_bulk = partial(serve_bulk, core)
        digest = hashlib.sha256(service_token(config).encode()).hexdigest()
        public = await _public_listeners(config.http)
        remote = await tls_listeners(config.tls) if config.tls else []
        admin = [await _admin_listener(config.admin_socket)]
        try:
            async with running(core, memory), trio.open_nursery() as nursery:
                _calm_collector()
                nursery.start_soon(_serve_door, core, Door("public", digest, core.tokens), public)
                nursery.start_soon(_serve_door, core, Door("admin", None), admin)
                nursery.start_soon(watch_lag)
                if tls:
                    nursery.start_soon(tls.accept, remote)
                    _announce(config, "tls", remote, "tls-address")
                _announce(config, "http", public, "address")
                number = await anext(signals)
                log.info("%s: detaching", signal.Signals(number).name)
                core.root.cancel(SHUTDOWN)
                nursery.cancel_scope.cancel(reason="shutdown")
        finally:
            disk.close()
            config.admin_socket.unlink(missing_ok=True)
            for name in ("address", "tls-address"):
                (config.directory / name).unlink(missing_ok=True)


def _calm_collector() -> None:
    """What is there now stays, and is not looked through again: a full pass stops the loop for as long as it takes."""
    gc.collect()
    gc.freeze()


async def _serve_door(core: Core, door: Door, listeners: list[trio.SocketListener]) -> None:
    http = core.config.http
    limits = Limits(
        keep_alive_s=http.keep_alive_s,
        read_timeout_s=http.read_s,
        stall_s=http.stall_s,
        stop_grace_s=http.stop_grace_s,
        request_head_bytes_max=http.head_bytes_max,
        connections_max=http.connections_max,
    )
    app = front(core, door, ROUTES, control_app(core, door, ROUTES))
    await serve_http(app, listeners, limits, is_hot=hot_paths(ROUTES))


async def _public_listeners(http: Http) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(http.port, host=http.host, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"http: cannot listen on {http.host}:{http.port}: {error.strerror or error}") from None


async def _admin_listener(path: Path) -> trio.SocketListener:
    path.unlink(missing_ok=True)
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)  # never open to others, not even between bind and chmod
    try:
        await sock.bind(str(path))
    finally:
        os.umask(old)
    sock.listen(BACKLOG)
    return trio.SocketListener(sock)


def _announce(config: Config, scheme: str, listeners: list[trio.SocketListener], file: str) -> None:
    """Say where we listen, for people and (with port 0) for programs."""
    host, port = listeners[0].socket.getsockname()[:2]
    address = f"{scheme}://{host}:{port}"
    write_whole(config.directory / file, address + "\n", 0o644)
    log.info("jobd serves %s, state %s", address, config.directory)
