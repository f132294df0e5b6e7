"""SSH, by asyncssh: the only file that knows asyncio, whose loop has a thread of its own here.

A call from Trio becomes a task there. Whoever cancels the call cancels the task, and waits for its end; deadlines are
Trio's. Only plain values and our own errors cross. asyncssh's own never do, because they hold on to what they were
made from; and it is told as little as can be: no files of ours, no agent, and secrets only by the answers to what the
server asks (_answers.py).
"""

import asyncio
import contextlib
import functools
import os
import shlex
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncssh
import trio
from attrs import frozen

from backends._answers import Answers
from backends.base import Credentials, LoginError

CANCEL_S_MAX = 5.0
CONNECT_S_MAX = 10.0
AUTHENTICATE_S_MAX = 30.0  # PAM takes its time to refuse
CLOSE_S_MAX = 2.0
TEXT_CHARS_MAX = 500
PIECE_BYTES = 64 * 1024
HOST_KEY_KINDS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
METHODS = ("publickey", "keyboard-interactive", "password")

asyncssh.set_log_level("WARNING")  # what it says below that is what it sends
asyncssh.set_sftp_log_level("WARNING")

T = TypeVar("T")


@frozen
class Target:
    """A login node, and the keys of which it must show one: 'ssh-ed25519 AAAA...'."""

    host: str
    port: int
    host_keys: tuple[str, ...]


@frozen
class Result:
    """What a command did; what it said is cut. The status of one that was killed is negative."""

    status: int
    out: bytes
    err: bytes


class RemoteWriteFailed(Exception):
    """A file could not be written; OpenSSH's server does not say why."""


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The daemon's one asyncio loop, running in its thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="asyncio for SSH", daemon=True).start()
    return loop


async def in_asyncio(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine there. Cancelled here, it is cancelled there, and has ended when this returns."""
    loop, token = _loop(), trio.lowlevel.current_trio_token()
    is_over = trio.Event()
    tasks: list[asyncio.Task[T]] = []

    def ended(_: "asyncio.Task[T]") -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(is_over.set)

    def begin() -> None:
        tasks.append(loop.create_task(make()))
        tasks[0].add_done_callback(ended)

    loop.call_soon_threadsafe(begin)
    try:
        await is_over.wait()
    except trio.Cancelled:
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108 - `begin` may be yet to come
        with trio.move_on_after(CANCEL_S_MAX, shield=True):
            await is_over.wait()
        raise
    return tasks[0].result()


class Session:
    """A connection to a login node as one user; opened by `connect`."""

    def __init__(self, connection: asyncssh.SSHClientConnection, answers: Answers) -> None:
        self._connection = connection
        self._answers = answers

    async def run(
        self, command: tuple[str, ...], *, stdin: bytes = b"", timeout_s: float, output_bytes_max: int, stage: str
    ) -> Result:
        """Run a command of words; raises LoginError when the connection is lost or nothing comes in time."""
        line = shlex.join(command)
        return await self._within(timeout_s, stage, lambda: _run(self._connection, line, stdin, output_bytes_max))

    async def put(self, source: Path, target: str, mode: int, *, timeout_s: float, stage: str) -> None:
        """Copy a file there, which shows under its name when it is whole; raises RemoteWriteFailed or LoginError."""
        problem = await self._within(timeout_s, stage, lambda: _put(self._connection, source, target, mode))
        if problem:
            raise RemoteWriteFailed(problem)

    def clean(self, text: str) -> str:
        """What the other side has said, without anything that was told to it in confidence."""
        return self._answers.clean(text)

    async def _within(self, timeout_s: float, stage: str, make: Callable[[], Coroutine[Any, Any, T | LoginError]]) -> T:
        try:
            with trio.fail_after(timeout_s):
                outcome = await in_asyncio(make)
        except trio.TooSlowError:
            outcome = LoginError(f"no answer within {timeout_s:g} s, while {stage}", "timeout")
        if isinstance(outcome, LoginError):
            raise outcome
        return outcome


@contextlib.asynccontextmanager
async def connect(
    target: Target, credentials: Credentials, tell: Callable[[str], None]
) -> AsyncGenerator[Session, None]:
    """A session of the user; `tell` hears the stages. Raises LoginError."""
    answers = Answers(credentials)
    opened: list[asyncssh.SSHClientConnection] = []
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope(deadline=trio.current_time() + CONNECT_S_MAX) as patience:

        def authenticating() -> None:
            patience.deadline = trio.current_time() + AUTHENTICATE_S_MAX
            tell("authenticating")

        tell("connecting")
        watched = _Client(target, answers, lambda: token.run_sync_soon(authenticating))
        try:
            error = await in_asyncio(lambda: _connect(target, watched, opened))
        except trio.Cancelled:
            await _close(opened)  # it may have been opened in that very moment
            raise
    if patience.cancelled_caught:
        error = _too_slow(watched)
    answers.forget()
    if error is not None:
        raise error
    try:
        yield Session(opened[0], answers)
    finally:
        await _close(opened)


async def _close(opened: list[asyncssh.SSHClientConnection]) -> None:
    async def close() -> None:
        for connection in opened:
            connection.close()
            with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
                await asyncio.wait_for(connection.wait_closed(), CLOSE_S_MAX)
            connection.abort()

    with trio.move_on_after(CLOSE_S_MAX + 1, shield=True):
        await in_asyncio(close)


def _too_slow(watched: "_Client") -> LoginError:
    if watched.has_begun:
        return LoginError(f"no answer within {AUTHENTICATE_S_MAX:g} s, while authenticating", "timeout")
    return LoginError(f"{watched.target.host} gave no answer within {CONNECT_S_MAX:g} s", "unreachable")


class _Client(asyncssh.SSHClient):
    """What asyncssh asks us."""

    def __init__(self, target: Target, answers: Answers, begun: Callable[[], None]) -> None:
        self.target = target
        self.answers = answers
        self.shown: asyncssh.SSHKey | None = None  # a host key that is not pinned
        self.has_begun = False
        self._begun = begun

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return False

    def begin_auth(self, username: str) -> None:
        self.has_begun = True
        self._begun()

    def auth_banner_received(self, msg: str, lang: str) -> None:
        self.answers.hear(msg)

    def password_auth_requested(self) -> str | None:
        return self.answers.password()

    def kbdint_auth_requested(self) -> str | None:
        return self.answers.begin_questions()

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str] | None:
        self.answers.hear(f"{name} {instructions}")
        return self.answers.to([prompt for prompt, _ in prompts])


async def _connect(target: Target, client: _Client, opened: list[asyncssh.SSHClientConnection]) -> LoginError | None:
    credentials = client.answers.credentials
    error: LoginError | None = None
    try:
        pinned = [asyncssh.import_public_key(key) for key in target.host_keys]
        keys = [_private_key(credentials)] if credentials.key else None
        connection, _ = await asyncssh.create_connection(
            lambda: client,
            target.host,
            target.port,
            username=credentials.username,
            known_hosts=(pinned, [], []),
            server_host_key_algs=_kinds(pinned),
            client_keys=keys,
            preferred_auth=METHODS if keys else METHODS[1:],
            public_key_auth=bool(keys),
            x509_trusted_certs=None,
            gss_host=None,
            config=None,
            agent_path=None,
            login_timeout=0,
        )
        opened.append(connection)
    except (OSError, asyncssh.Error, ValueError) as failure:  # a key that is none is a ValueError
        error = _error(failure, target, client)
    return error


def _kinds(pinned: list[asyncssh.SSHKey]) -> list[str]:
    """Those of the pinned keys first; the others too, because a host that has none of them is to show what it has."""
    own = {kind.decode() for key in pinned for kind in key.sig_algorithms}
    return sorted(HOST_KEY_KINDS, key=lambda kind: kind not in own)


def _private_key(credentials: Credentials) -> asyncssh.SSHKey:
    return asyncssh.import_private_key(credentials.key, credentials.passphrase or None)


def _error(failure: Exception, target: Target, client: _Client) -> LoginError:
    """What it means, in words of our own."""
    if isinstance(failure, asyncssh.KeyImportError | asyncssh.KeyEncryptionError):
        return LoginError("the private key, or its passphrase, is not right", "wrong_credentials")
    is_lost = isinstance(failure, asyncssh.ConnectionLost)
    if client.has_begun and isinstance(failure, asyncssh.DisconnectError) and not is_lost:
        return client.answers.refusal()
    if isinstance(failure, asyncssh.HostKeyNotVerifiable | asyncssh.KeyExchangeFailed):
        return _host_key_error(target, client.shown)
    words = _words(failure)
    if isinstance(failure, OSError) and failure.errno is not None and failure.errno > 0:
        words = os.strerror(failure.errno)  # asyncio has put in words of its own
    return LoginError(f"{target.host}:{target.port}: {words}", "unreachable")


def _words(failure: Exception) -> str:
    """What asyncssh says of it, or Python; cut."""
    return f"{getattr(failure, 'reason', '') or failure}"[:TEXT_CHARS_MAX]


def _host_key_error(target: Target, shown: asyncssh.SSHKey | None) -> LoginError:
    where = f"{target.host}:{target.port}"
    if shown is None:
        return LoginError(f"{where} shows no host key of a kind that is known of it", "host_key_unknown")
    kind, fingerprint = shown.get_algorithm(), shown.get_fingerprint()
    if any(key.split()[0] == kind for key in target.host_keys):
        return LoginError(f"{where} shows another {kind} host key than before: {fingerprint}", "host_key_changed")
    return LoginError(f"{where} shows a host key that is not known: {kind} {fingerprint}", "host_key_unknown")


async def _run(
    connection: asyncssh.SSHClientConnection, line: str, stdin: bytes, output_bytes_max: int
) -> Result | LoginError:
    async def drained(reader: asyncssh.SSHReader[bytes]) -> bytes:
        kept = b""
        while piece := await reader.read(PIECE_BYTES):
            kept += piece[: output_bytes_max - len(kept)]
        return kept

    lost = ""
    try:
        process = await connection.create_process(line, encoding=None)
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it may not want all of it
            process.stdin.write(stdin)
            process.stdin.write_eof()
        out, err = await asyncio.gather(drained(process.stdout), drained(process.stderr))
        await process.wait_closed()
        if process.exit_status is not None:
            return Result(process.exit_status, out, err)
        lost = "the connection was lost"
    except (OSError, asyncssh.Error) as failure:
        lost = f"the connection was lost: {_words(failure)}"
    return LoginError(lost, "unreachable")


async def _put(connection: asyncssh.SSHClientConnection, source: Path, target: str, mode: int) -> str | LoginError:
    """Copies, and returns what the server had to say against it."""
    draft = f"{target}.new"
    problem = ""
    try:
        async with connection.start_sftp_client() as sftp:
            try:
                await sftp.put(str(source), draft)
                await sftp.chmod(draft, mode)
                await sftp.posix_rename(draft, target)
            except (asyncssh.SFTPError, OSError) as failure:
                problem = _words(failure) or type(failure).__name__
                with contextlib.suppress(asyncssh.SFTPError, OSError):
                    await sftp.remove(draft)
    except (asyncssh.Error, OSError) as failure:
        return LoginError(f"files cannot be copied there: {_words(failure)}", "unreachable")
    return problem
