"""The addresses of resources.

A name is checked here as jobd would, and refused in jobd's words: what a program hands on from its users must never
lead to another resource (`..`, `?` and `%2F` are understood by the HTTP client, proxies and servers on the way).
"""

from collections.abc import Callable
from urllib.parse import quote

from jobd.client.wire import ProblemError
from schemas.ids import check_name, check_path


def user_path(user: str) -> str:
    """What is below a user."""
    return f"/v1/users/{named('user', user)}"


def job_path(user: str, job: str) -> str:
    """What is below a job."""
    return f"{user_path(user)}/jobs/{named('job', job)}"


def named(field: str, name: str) -> str:
    """A name as a part of a path; raises ProblemError."""
    return _checked(check_name, field, name)


def file_path(path: str) -> str:
    """The path of a file in a run directory; raises ProblemError."""
    return _checked(check_path, "path", path)


def _checked(check: Callable[[str], str], field: str, text: str) -> str:
    try:
        return quote(check(text))
    except ValueError as error:
        title = "The request was refused; 'field' names the part at fault."
        document = {"title": title, "status": 422, "code": "invalid", "detail": f"{field} {error}.", "field": field}
        raise ProblemError(422, document) from None


def login_path(user: str, cluster: str) -> str:
    """A user's login at a cluster."""
    return f"{user_path(user)}/clusters/{named('cluster', cluster)}/login"
