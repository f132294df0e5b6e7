"""The agents' door for other hosts: TLS on a TCP port, in front of the same links and bulk streams as unix sockets.

ALPN says what a connection is: `jobd-link` is a websocket, `jobd-bulk` a raw stream with a header line; anything else
is closed. There is one door for all agents, so the token alone says whose a connection is; an agent of this machine is
not known here, and its token stays worth nothing outside its own socket.

Anybody can reach this port, so whoever has not shown a token costs little: no TLS object before its first byte, one
deadline for the handshake and all that follows, and a bounded number of places (gateway.Door).
"""

import hashlib
import logging
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from jobd.agent import Agent
from jobd.config import Agents, ConfigError, Tls
from jobd.gateway import Door, Identify, Serve, ServeBulk, serve_websocket
from schemas.link import ALPN_BULK, ALPN_LINK

log = logging.getLogger(__name__)

BACKLOG = 512


class TlsGateway:
    """The door's inside. Whoever composes the daemon sets `serve` and `serve_bulk`."""

    def __init__(
        self,
        config: Tls,
        agents: Agents,
        everyone: Callable[[], Iterable[Agent]],
        admits: Callable[[Agent], bool],
    ) -> None:
        self._everyone = everyone
        self._admits = admits
        self._by_digest: dict[str, Agent] = {}
        self._context = server_context(config)
        self._door = Door("tls", agents, self.agent_of, config.strangers_max)
        self.serve: Serve
        self.serve_bulk: ServeBulk

    async def accept(self, listeners: list[trio.SocketListener]) -> None:
        """Serve whoever comes, for ever."""
        await self._door.accept(listeners, self._visited)

    def agent_of(self, token: str) -> Agent | None:
        """The agent whose newest generation has this token, if it may call here.

        The index is by digest, so how long a look-up takes says nothing about any token. It is made anew when it does
        not know a digest, because tokens change with the generations, in the fleet; what is old in it is not accepted.
        """
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        agent = self._by_digest.get(digest)
        if agent is None:
            self._by_digest = {each.record.token_sha256: each for each in self._everyone() if each.record.token_sha256}
            agent = self._by_digest.get(digest)
        if agent is None or not agent.accepts(token) or not self._admits(agent):
            return None
        return agent

    async def _visited(self, identify: Identify, transport: trio.SocketStream) -> None:
        await trio.lowlevel.wait_readable(transport.socket)
        stream = trio.SSLStream(transport, self._context, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            log.debug("no TLS handshake: %s", error.__cause__ or error)
            return
        protocol = stream.selected_alpn_protocol()
        if protocol == ALPN_LINK:
            await serve_websocket(self.serve, identify, stream)
        elif protocol == ALPN_BULK:
            await self.serve_bulk(identify, stream)


def server_context(config: Tls) -> ssl.SSLContext:
    """Certificate and key, ready to serve; raises ConfigError that names the field."""
    for name in ("certificate_file", "key_file"):
        _check_readable(name, getattr(config, name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client's renegotiation is work for us alone
    context.num_tickets = 0  # nobody resumes
    context.set_alpn_protocols([ALPN_LINK, ALPN_BULK])
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(config.certificate_file)
    except ssl.SSLError:
        raise ConfigError(f"tls.certificate_file: {config.certificate_file} holds no PEM certificate") from None
    try:
        context.load_cert_chain(config.certificate_file, config.key_file, password=_nobody_to_ask)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise ConfigError(f"tls.key_file: {config.key_file} is no key for the certificate: {reason}") from None
    return context


def _nobody_to_ask() -> str:
    """Without it OpenSSL would ask at the terminal for the password of an encrypted key, and a daemon would hang."""
    raise ValueError("it has a password")


def _check_readable(name: str, path: str) -> None:
    """OpenSSL would not say which file it is that it cannot open."""
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"tls.{name}: {path}: {error.strerror}") from None


async def tls_listeners(config: Tls) -> list[trio.SocketListener]:
    """Listen; raises ConfigError."""
    try:
        return await trio.open_tcp_listeners(config.port, host=config.host, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"tls: cannot listen on {config.host}:{config.port}: {error.strerror or error}") from None
