"""Names and ids: one function checks each, and nobody else looks inside them.

*Names* come from people (user, job, library file); *ids* are made by jobd and are short, so that host paths, sockets
and container names never hold what a person typed and a unix socket's path stays below its 100 bytes.
"""

import re
import secrets

NAME_CHARS_MAX = 128
LABEL_CHARS_MAX = 100
PATH_CHARS_MAX = 512
PATH_PARTS_MAX = 16
ID_CHARS = 10

NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(NAME_PATTERN)
_ID = re.compile(r"[a-z][a-z2-7]{9}")
_PART = re.compile(r"[A-Za-z0-9_+=,@%~. -]+")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def check_name(name: str) -> str:
    """The name of a user, job, code, cluster or library file; raises ValueError with what is allowed."""
    if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise ValueError(
            f"must be 1 to {NAME_CHARS_MAX} of A-Za-z0-9._- and start with a letter or digit",
        )
    return name


def check_path(path: str) -> str:
    """A relative file path inside a run directory; raises ValueError with what is allowed.

    This is the check of form only; whoever opens the path must still do so beneath the run directory.
    """
    parts = path.split("/")
    if len(path) > PATH_CHARS_MAX or len(parts) > PATH_PARTS_MAX:
        raise ValueError(f"must be at most {PATH_CHARS_MAX} characters in at most {PATH_PARTS_MAX} parts")
    if any(part in ("", ".", "..") or not _PART.fullmatch(part) for part in parts):
        raise ValueError("must be a relative path of plain ASCII file names, without '.' or '..' parts")
    return path


def check_label(text: str) -> str:
    """What a code calls a measure or a view, for people; raises ValueError with what is allowed."""
    if not 0 < len(text) <= LABEL_CHARS_MAX or not text.isprintable():
        raise ValueError(f"must be 1 to {LABEL_CHARS_MAX} printable characters")
    return text


def check_id(text: str) -> str:
    """An id that `new_id` made; raises ValueError otherwise."""
    if not _ID.fullmatch(text):
        raise ValueError("must be an id that jobd made")
    return text


def new_id(kind: str, bits: int | None = None) -> str:
    """A fresh id: one letter for its kind (u user, j job, a agent, o op, t transfer, k token) and nine base-32 digits.

    `bits` gives the randomness where a test needs the same ids again; otherwise the system does.
    """
    number = secrets.randbits(45) if bits is None else bits
    return kind + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(0, 45, 5))


def new_token() -> str:
    """A bearer token of 256 random bits."""
    return secrets.token_urlsafe(32)
