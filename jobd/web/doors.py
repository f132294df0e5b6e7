"""Who calls, and may they: the principals of the API, and errors as RFC 9457 problem documents.

The gateway's web server proves itself by the service token; an operator by having opened the admin socket, whose file
permissions are the credentials. What neither proves is 401, without telling what exists.
"""

import hashlib
import hmac
import math
from collections.abc import Iterable
from typing import Any

from attrs import field, frozen

from jobd.errors import Forbidden, Invalid, JobdError, Unauthorized
from schemas import codec
from schemas.codec import dumps
from schemas.ids import check_name

Headers = Iterable[tuple[bytes, bytes]]


@frozen
class Door:
    """One listener's rule: the service token's SHA-256, or none where whoever came in is an operator."""

    name: str
    token_sha256: str | None = field(repr=False)

    def enter(self, headers: Headers) -> "Principal":
        """The principal of a request; raises Unauthorized."""
        if self.token_sha256 is None:
            return Principal("operator")
        for name, value in headers:
            if name.lower() == b"authorization" and value[:7].lower() == b"bearer ":
                if hmac.compare_digest(hashlib.sha256(value[7:]).hexdigest(), self.token_sha256):
                    return Principal("gateway")
                break
        raise Unauthorized


@frozen
class Principal:
    """Who calls."""

    kind: str

    def may_administer(self) -> None:
        """Raises Forbidden unless this is an operator."""
        if self.kind != "operator":
            raise Forbidden


def named(**names: str) -> None:
    """Check the names in a path; raises Invalid that says which."""
    for what, name in names.items():
        try:
            check_name(name)
        except ValueError as error:
            raise Invalid(f"{what} {error}.", field=what) from None


def decoded(body: bytes, kind: Any, bytes_max: int) -> Any:
    """A request's body as `kind`, an empty one as an empty object; raises Invalid that names the field."""
    try:
        return codec.decode((body or b"{}").decode(), kind, bytes_max)
    except UnicodeDecodeError:
        raise Invalid("The body is not UTF-8.", field="") from None
    except codec.CodecError as error:
        raise Invalid(f"{error}.", field=error.field) from None


def problem(error: JobdError) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of an error's reply."""
    document: dict[str, Any] = {
        "type": f"urn:jobd:error:{error.code}",
        "title": error.sentence,
        "status": error.status,
        "code": error.code,
        "detail": error.detail or error.sentence,
        **error.fields,
    }
    headers = [("content-type", "application/problem+json")]
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(math.ceil(error.retry_after_s))))
    if error.status == 401:
        headers.append(("www-authenticate", "Bearer"))
    return error.status, headers, dumps(document).encode()
