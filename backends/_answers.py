"""What a login node asks of a user, and what it is answered: each secret at most once, because a second time means that
it was refused, and sites lock accounts out. What happened on the way tells afterwards what was wrong.

A prompt says what it wants only in words for people. One that speaks of a code gets the code, one that speaks of both
gets both in one field, and any other the password.
"""

import re

from backends.base import Credentials, LoginError

PROMPTS_MAX = 8
HEARD_CHARS_MAX = 4000
SECRET_CHARS_MIN = 3  # a shorter one would be found everywhere
_CODE = re.compile(
    r"one[- ]time pass\w*|\botp\b|\bcode\b|\btoken\b|passcode|verification|authenticator|2fa|two[- ]factor", re.I
)
_PASSWORD = re.compile(r"password|passphrase|kennwort|mot de passe", re.I)
_LOCKED = re.compile(
    r"account.{0,80}(locked|expired|disabled|not available|denied)|locked due to|password.{0,40}expired", re.I | re.S
)


class Answers:
    """One attempt to get in."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._secrets = [
            secret
            for secret in (credentials.password, credentials.code, credentials.passphrase, *_lines(credentials.key))
            if len(secret) >= SECRET_CHARS_MIN
        ]
        self._given: list[str] = []  # kinds of answers, in order
        self._missing = ""  # a kind that was asked for and that we do not have
        self._was_questioned = False
        self._heard = ""

    def hear(self, words: str) -> None:
        """The server says something for people."""
        self._heard = (self._heard + " " + words)[-HEARD_CHARS_MAX:]

    def password(self) -> str | None:
        """The answer to the method 'password'. Where there are no questions, which come first, a code can only be meant
        to follow the password in its field."""
        if self._given:
            return None
        return self._answer("both" if self.credentials.code and not self._was_questioned else "password")

    def begin_questions(self) -> str | None:
        """Once; a second time means that the answers were refused. The kind of questions is the server's choice."""
        was_questioned, self._was_questioned = self._was_questioned, True
        return None if was_questioned or not (self.credentials.password or self.credentials.code) else ""

    def to(self, prompts: list[str]) -> list[str] | None:
        """The answers to one round of questions; None when one was answered before, or cannot be."""
        if len(prompts) > PROMPTS_MAX:
            return None
        answers = [self._answer(kind_of(prompt)) for prompt in prompts]
        if len(prompts) > 1 and self._given:
            self._given = ["together"]
        return None if None in answers else [answer or "" for answer in answers]

    def _answer(self, kind: str) -> str | None:
        if {kind, "both", "together"} & set(self._given):
            return None
        own = self.credentials
        answer = {"password": own.password, "code": own.code, "both": own.password + own.code}[kind]
        if not answer:
            self._missing = kind
            return None
        self._given.append(kind)
        return answer

    def refusal(self) -> LoginError:
        """Why we were not let in, as far as can be told."""
        if _LOCKED.search(self._heard):
            return LoginError("the site says that the account, or its password, is locked or has expired", "locked")
        if not self._given and self.credentials.key:
            return LoginError("the key was not accepted, or is not enough", "wrong_credentials")
        if self._missing:
            what = "one-time code" if self._missing == "code" else "password"
            return LoginError(f"the site asks for a {what} too, which was not given", "no_credentials")
        if self._given[-1:] == ["code"]:  # a site that asks for the password first has taken that
            return LoginError("the one-time code was not accepted", "expired_code")
        if not self._given:
            return LoginError("the site lets nobody in by password", "wrong_credentials")
        what = "the password" if self._given == ["password"] else "the password, or the one-time code,"
        return LoginError(f"{what} was not accepted", "wrong_credentials")

    def forget(self) -> None:
        """We are in, or not; what was asked will not be asked again."""
        self.credentials = Credentials(self.credentials.username)

    def clean(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def kind_of(prompt: str) -> str:
    """What a prompt asks for: 'password', 'code', or 'both' in one field."""
    rest, codes = _CODE.subn("", prompt)
    if not codes:
        return "password"
    return "both" if _PASSWORD.search(rest) else "code"


def _lines(key: str) -> list[str]:
    """Of a private key, without those that every key has."""
    return [line for line in key.splitlines() if not line.startswith("-----")]
