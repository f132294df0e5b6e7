"""Sessions with a real sshd: who is let in, what is told of who is not, commands, files, and deadlines."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from loginnode import Sshd, User, mute_port, public_key, ran

from backends import _ssh
from backends._answers import kind_of
from backends._ssh import RemoteWriteFailed, Target, connect
from backends.base import Credentials, LoginError

pytestmark = pytest.mark.ssh

TORN_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"
LIMITS = {"timeout_s": 20.0, "output_bytes_max": 10_000, "stage": "testing"}


async def refused(target: Target, credentials: Credentials) -> LoginError:
    with pytest.raises(LoginError) as caught:
        async with connect(target, credentials, lambda _: None):
            pass
    return caught.value


async def name_of(target: Target, credentials: Credentials) -> str:
    async with connect(target, credentials, lambda _: None) as session:
        return (await session.run(("id", "-un"), **LIMITS)).out.decode().strip()


@pytest.fixture
def known(user: User) -> Credentials:
    return Credentials(user.name, user.password)


# --- who is let in --------------------------------------------------------------------------------------------------


async def test_a_password_is_enough_where_it_is(sshd: Sshd, user: User, known: Credentials) -> None:
    assert await name_of(sshd.target(), known) == user.name


@pytest.mark.parametrize("only", ["PasswordAuthentication", "KbdInteractiveAuthentication"])
async def test_a_password_is_given_whichever_way_it_is_asked_for(
    make_sshd: Callable[..., Sshd], user: User, known: Credentials, only: str
) -> None:
    ways = dict.fromkeys(("PasswordAuthentication", "KbdInteractiveAuthentication"), "no") | {only: "yes"}
    sshd = make_sshd(**ways)
    assert await name_of(sshd.target(), known) == user.name
    error = await refused(sshd.target(), Credentials(user.name, "wrong"))
    assert (error.code, str(error)) == ("wrong_credentials", "the password was not accepted")
    assert sshd.log().count("Failed password") + sshd.log().count("authentication failure") <= 2  # asked once


async def test_a_key_is_enough_where_it_is(sshd: Sshd, user: User, bed: Path) -> None:
    assert await name_of(sshd.target(), Credentials(user.name, key=user.key.read_text())) == user.name
    locked = bed / "locked_key"
    locked.write_text(user.key.read_text())
    locked.chmod(0o600)
    ran("ssh-keygen", "-q", "-p", "-N", "a phrase", "-f", locked)
    secret = Credentials(user.name, key=locked.read_text(), passphrase="a phrase")
    assert await name_of(sshd.target(), secret) == user.name


@pytest.mark.parametrize("pam", ["then a code", "code first", "one field"])
async def test_password_and_code_are_given_as_the_site_asks_for_them(
    make_sshd: Callable[..., Sshd], user: User, pam: str
) -> None:
    sshd = make_sshd(pam)
    assert await name_of(sshd.target(), Credentials(user.name, user.password, user.code())) == user.name


async def test_a_code_may_follow_the_password_in_its_one_field(make_sshd: Callable[..., Sshd], user: User) -> None:
    sshd = make_sshd("one field", KbdInteractiveAuthentication="no")
    assert await name_of(sshd.target(), Credentials(user.name, user.password, user.code())) == user.name
    assert await name_of(sshd.target(), Credentials(user.name, user.password + user.code())) == user.name


async def test_a_key_and_a_code_may_both_be_needed(make_sshd: Callable[..., Sshd], user: User) -> None:
    sshd = make_sshd("then a code", AuthenticationMethods="publickey,keyboard-interactive")
    both = Credentials(user.name, user.password, user.code(), user.key.read_text())
    assert await name_of(sshd.target(), both) == user.name
    assert (await refused(sshd.target(), Credentials(user.name, key=both.key))).code == "wrong_credentials"


# --- who is not -----------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_told(sshd: Sshd, user: User) -> None:
    error = await refused(sshd.target(), Credentials(user.name, "wrong"))
    assert (error.code, str(error)) == ("wrong_credentials", "the password was not accepted")


async def test_a_user_who_is_not_there_is_told_no_more(sshd: Sshd) -> None:
    assert (await refused(sshd.target(), Credentials("nobody-here", "wrong"))).code == "wrong_credentials"


async def test_a_wrong_code_is_told_where_the_password_was_taken(make_sshd: Callable[..., Sshd], user: User) -> None:
    sshd = make_sshd("then a code")
    error = await refused(sshd.target(), Credentials(user.name, user.password, user.code(-1000)))
    assert error.code == "expired_code"
    error = await refused(sshd.target(), Credentials(user.name, "wrong", user.code()))
    assert (error.code, str(error)) == ("wrong_credentials", "the password was not accepted")
    error = await refused(sshd.target(), Credentials(user.name, user.password))
    assert (error.code, str(error)) == ("no_credentials", "the site asks for a one-time code too, which was not given")


async def test_a_wrong_code_is_told_where_it_comes_first(make_sshd: Callable[..., Sshd], user: User) -> None:
    error = await refused(make_sshd("code first").target(), Credentials(user.name, user.password, user.code(-1000)))
    assert error.code == "expired_code"


async def test_a_wrong_code_in_the_field_of_the_password_cannot_be_told_from_a_wrong_password(
    make_sshd: Callable[..., Sshd], user: User
) -> None:
    error = await refused(make_sshd("one field").target(), Credentials(user.name, user.password, user.code(-1000)))
    assert error.code == "wrong_credentials"
    assert "the password, or the one-time code," in str(error)


async def test_an_account_that_has_expired_is_told(sshd: Sshd, user: User, known: Credentials) -> None:
    ran("chage", "-E", "2020-01-01", user.name)
    try:
        assert (await refused(sshd.target(), known)).code == "locked"
    finally:
        ran("chage", "-E", "-1", user.name)


@pytest.mark.parametrize(
    "key", ["nonsense", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"]
)
async def test_a_key_that_is_none_is_told(sshd: Sshd, user: User, key: str) -> None:
    error = await refused(sshd.target(), Credentials(user.name, key=key))
    assert (error.code, str(error)) == ("wrong_credentials", "the private key, or its passphrase, is not right")


async def test_a_wrong_passphrase_or_none_is_told(sshd: Sshd, user: User, bed: Path) -> None:
    path = bed / "another_locked_key"
    ran("ssh-keygen", "-q", "-t", "ed25519", "-N", "a phrase", "-f", path)
    for phrase in ("", "another"):
        error = await refused(sshd.target(), Credentials(user.name, key=path.read_text(), passphrase=phrase))
        assert "the private key, or its passphrase, is not right" in str(error)
    error = await refused(sshd.target(), Credentials(user.name, key=path.read_text(), passphrase="a phrase"))
    assert str(error) == "the key was not accepted, or is not enough"


# --- the host key ---------------------------------------------------------------------------------------------------


async def test_a_changed_host_key_is_told_from_an_unknown_one(sshd: Sshd, known: Credentials, bed: Path) -> None:
    fingerprint = ran("ssh-keygen", "-lf", sshd.host_key.with_suffix(".pub")).split()[1]
    error = await refused(sshd.target(public_key(bed)), known)
    assert error.code == "host_key_changed"
    assert fingerprint in str(error)
    error = await refused(sshd.target(public_key(bed, "ecdsa")), known)
    assert error.code == "host_key_unknown"
    error = await refused(Target("127.0.0.1", sshd.port, ()), known)
    assert error.code == "host_key_unknown"
    assert fingerprint in str(error)


async def test_one_of_several_pinned_keys_is_enough(sshd: Sshd, user: User, known: Credentials, bed: Path) -> None:
    keys = (public_key(bed), *sshd.target().host_keys, public_key(bed, "ecdsa"))
    assert await name_of(sshd.target(*keys), known) == user.name


async def test_a_password_is_never_shown_to_a_host_that_is_not_known(
    make_sshd: Callable[..., Sshd], known: Credentials, bed: Path
) -> None:
    sshd = make_sshd()
    await refused(sshd.target(public_key(bed)), known)
    assert "password" not in sshd.log()


# --- out of reach ---------------------------------------------------------------------------------------------------


async def test_a_closed_port_is_told(known: Credentials) -> None:
    with mute_port() as port:
        pass
    error = await refused(Target("127.0.0.1", port, ()), known)
    assert error.code == "unreachable"
    assert "refused" in str(error).lower()


async def test_a_name_that_is_none_is_told(known: Credentials) -> None:
    assert (await refused(Target("no-such-host.invalid", 22, ()), known)).code == "unreachable"


async def test_a_port_that_says_nothing_costs_a_bounded_time(
    known: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ssh, "CONNECT_S_MAX", 0.5)
    with mute_port() as port:
        began = time.monotonic()
        error = await refused(Target("127.0.0.1", port, ()), known)
    assert (error.code, str(error)) == ("unreachable", "127.0.0.1 gave no answer within 0.5 s")
    assert time.monotonic() - began < 2


async def test_whoever_is_cancelled_leaves_no_connection(sshd: Sshd, known: Credentials) -> None:
    for delay_s in (0.0, 0.01, 0.03, 0.06, 0.1, 0.2):
        with trio.move_on_after(delay_s):
            async with connect(sshd.target(), known, lambda _: None) as session:
                await session.run(("sleep", "60"), **LIMITS)
    deadline = time.monotonic() + 5
    while connections_to(sshd.port):
        assert time.monotonic() < deadline
        await trio.sleep(0.05)


def connections_to(port: int) -> int:
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return sum(f":{port:04X}" in line.split()[2] and line.split()[3] == "01" for line in lines)


# --- commands and files ---------------------------------------------------------------------------------------------


async def test_words_arrive_as_they_are(sshd: Sshd, known: Credentials) -> None:
    words = ("printf", "%s|", "a b", "'", '"$HOME"', "$(id)", "*", "", "é\n!")
    async with connect(sshd.target(), known, lambda _: None) as session:
        result = await session.run(words, **LIMITS)
    assert result.out.decode() == "".join(f"{word}|" for word in words[2:])


async def test_a_command_tells_its_status_and_its_words_apart(sshd: Sshd, known: Credentials) -> None:
    async with connect(sshd.target(), known, lambda _: None) as session:
        result = await session.run(("sh", "-c", "cat; echo err >&2; exit 7"), stdin=b"in\0put", **LIMITS)
        assert (result.status, result.out, result.err) == (7, b"in\0put", b"err\n")
        assert (await session.run(("sh", "-c", "kill -9 $$"), **LIMITS)).status < 0


async def test_output_is_bounded_and_input_need_not_be_read(sshd: Sshd, known: Credentials) -> None:
    async with connect(sshd.target(), known, lambda _: None) as session:
        flood = await session.run(("sh", "-c", "head -c 5000000 /dev/zero; echo done >&2"), **LIMITS)
        assert (len(flood.out), flood.err) == (10_000, b"done\n")
        assert (await session.run(("true",), stdin=b"x" * 3_000_000, **LIMITS)).status == 0


async def test_a_command_has_a_deadline(sshd: Sshd, known: Credentials) -> None:
    async with connect(sshd.target(), known, lambda _: None) as session:
        with pytest.raises(LoginError, match=r"no answer within 0\.3 s, while testing") as caught:
            await session.run(("sleep", "60"), **{**LIMITS, "timeout_s": 0.3})
        assert caught.value.code == "timeout"
        assert (await session.run(("true",), **LIMITS)).status == 0


async def test_a_connection_that_is_lost_is_told(
    make_sshd: Callable[..., Sshd], user: User, known: Credentials
) -> None:
    sshd = make_sshd()
    async with connect(sshd.target(), known, lambda _: None) as session:
        with pytest.raises(LoginError) as caught:
            await session.run(("sh", "-c", "kill -9 $PPID"), **LIMITS)
    assert caught.value.code == "unreachable"


async def test_a_file_is_there_as_a_whole_or_not_at_all(sshd: Sshd, user: User, known: Credentials, bed: Path) -> None:
    source = bed / "source"
    source.write_bytes(b"new" * 1_000_000)
    target = user.write("target", "old")
    async with connect(sshd.target(), known, lambda _: None) as session:
        await session.put(source, str(target), 0o640, timeout_s=20, stage="copying")
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_mode & 0o777 == 0o640
        with pytest.raises(RemoteWriteFailed):
            await session.put(source, "/proc/nowhere", 0o600, timeout_s=20, stage="copying")
    assert [path.name for path in user.home.glob("target*")] == ["target"]


async def test_a_file_that_does_not_fit_leaves_the_old_one(
    sshd: Sshd, user: User, known: Credentials, bed: Path
) -> None:
    source, disk = bed / "large", user.home / "small"
    source.write_bytes(bytes(3_000_000))
    disk.mkdir()
    ran("mount", "-t", "tmpfs", "-o", f"size=1m,uid={user.uid},mode=700", "none", disk)
    try:
        target = user.write("small/target", "old")
        async with connect(sshd.target(), known, lambda _: None) as session:
            with pytest.raises(RemoteWriteFailed):
                await session.put(source, str(target), 0o600, timeout_s=20, stage="copying")
        assert [(path.name, path.read_text()) for path in disk.iterdir()] == [("target", "old")]
    finally:
        ran("umount", disk)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("Password: ", "password"),
        ("(alice@login) Password: ", "password"),
        ("Kennwort: ", "password"),
        ("Verification code: ", "code"),
        ("One-time password (OATH) for `alice': ", "code"),
        ("Password & verification code: ", "both"),
        ("Password + OTP: ", "both"),
        ("Enter your OTP: ", "code"),
        ("Passcode or option (1-3): ", "code"),
        ("Enter PASSCODE: ", "code"),
        ("Your token code", "code"),
        ("Barcode-free login, password please", "password"),
    ],
)
def test_a_prompt_is_understood_by_its_words(prompt: str, kind: str) -> None:
    assert kind_of(prompt) == kind
