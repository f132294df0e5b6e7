"""A small HTTP client of jobd: for jobctl, for the demo, and for a gateway's own Python.

Everything that is safe to repeat is repeated while jobd restarts: reads, a cancel, and a run request (it is idempotent
by its input hash). Events resume where they ended, so a restart of jobd is a pause.
"""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from attrs import frozen

RETRY_S = 0.2
RETRY_S_MAX = 2.0


class ProblemError(Exception):
    """jobd refused: `code` is stable (docs/faults.md), `status` the HTTP status, `document` the whole problem."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(document.get("code", "unknown"))
        self.document = document
        field = f" (field: {document['field']})" if document.get("field") else ""
        super().__init__(f"{document.get('title', 'The request failed.')} {document.get('detail', '')}{field}")


class UnreachableError(Exception):
    """jobd did not answer for `patience_s`."""


@frozen
class Event:
    """One server-sent event: `stage` (with a number) or `status`."""

    name: str
    number: int | None
    data: Any


class Client:
    """Speaks for one principal: with `token` the gateway's web server, over the admin socket an operator.

    `patience_s` is how long a call waits for a daemon that does not answer, a restart included.
    """

    def __init__(self, url: str = "", *, token: str = "", socket: Path | None = None, patience_s: float = 30.0) -> None:
        self.patience_s = patience_s
        self._http = httpx.Client(
            base_url=url or "http://jobd",
            headers={"authorization": f"Bearer {token}"} if token else {},
            transport=httpx.HTTPTransport(uds=str(socket)) if socket else None,
            timeout=httpx.Timeout(330.0, connect=5.0),
            trust_env=False,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def run(self, user: str, job: str, **request: Any) -> dict[str, Any]:
        """Start the job's run (fields: schemas.api.RunRequest); returns its status."""
        return self._json("PUT", f"{_job(user, job)}/run", json=request)

    def status(self, user: str, job: str) -> dict[str, Any]:
        """The status of the job's newest run."""
        return self._json("GET", _job(user, job))

    def cancel(self, user: str, job: str, serial: int | None = None, reason: str = "") -> dict[str, Any]:
        """Cancel the run; the status says what is confirmed gone."""
        body = {"reason": reason} | ({"serial": serial} if serial else {})
        return self._json("POST", f"{_job(user, job)}/cancel", json=body)

    def files(self, user: str, job: str) -> dict[str, Any]:
        """The files of the run directory."""
        return self._json("GET", f"{_job(user, job)}/files")

    def frame(self, user: str, job: str, view: str, index: int | str = "latest", **query: Any) -> bytes:
        """One frame, as JSON text or, with format='png', as a picture."""
        return self._bytes(f"{_job(user, job)}/frames/{view}/{index}", query)

    def file(self, user: str, job: str, path: str) -> bytes:
        """A small file, whole."""
        return self._bytes(f"{_job(user, job)}/files/{path}", {})

    def tree(self) -> list[dict[str, Any]]:
        """The live cancel-scope tree; for operators."""
        nodes: list[dict[str, Any]] = self._json("GET", "/v1/admin/tree")["tree"]
        return nodes

    def log(self, user: str, job: str, *, follow: bool = False) -> Iterator[bytes]:
        """The run's log; with `follow`, what is appended until the run has ended, over restarts of jobd."""
        sent = 0
        serial = self.status(user, job).get("serial")
        for _ in self._attempts():
            query = {"follow": "1", "offset": str(sent)} | ({"serial": str(serial)} if serial else {})
            try:
                with self._http.stream("GET", f"{_job(user, job)}/log", params=query if follow else {}) as reply:
                    _check(reply)
                    for piece in reply.iter_bytes():
                        sent += len(piece)
                        yield piece
            except httpx.TransportError:
                if not follow and sent:
                    raise
            else:
                return

    def events(self, user: str, job: str, last: int | None = None) -> Iterator[Event]:
        """The job's events from now on, or from those after the stage `last`; never ends by itself."""
        while True:
            for _ in self._attempts():
                headers = {"last-event-id": str(last)} if last is not None else {}
                try:
                    with self._http.stream("GET", f"{_job(user, job)}/events", headers=headers) as reply:
                        _check(reply)
                        for event in _parse(reply.iter_lines()):
                            last = event.number if event.number is not None else last
                            yield event
                        break  # jobd ended the stream; a new one goes on
                except httpx.TransportError:
                    continue

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        for _ in self._attempts():
            try:
                reply = self._http.request(method, path, **options)
                _check(reply)
            except httpx.TransportError:
                continue
            except ProblemError as problem:
                if problem.code != "shutting_down":
                    raise
                continue
            document: dict[str, Any] = reply.json()
            return document
        raise AssertionError("the attempts end by raising")

    def _bytes(self, path: str, query: Mapping[str, Any]) -> bytes:
        for _ in self._attempts():
            try:
                reply = self._http.get(path, params=dict(query))
            except httpx.TransportError:
                continue
            _check(reply)
            return reply.content
        raise AssertionError("the attempts end by raising")

    def _attempts(self) -> Iterator[None]:
        """Once for each attempt, with growing pauses; raises UnreachableError when patience has ended."""
        until = time.monotonic() + self.patience_s
        pause_s = RETRY_S
        while True:
            yield
            if time.monotonic() > until:
                raise UnreachableError(f"jobd did not answer for {self.patience_s:g} s")
            time.sleep(pause_s)
            pause_s = min(RETRY_S_MAX, pause_s * 2)


def _job(user: str, job: str) -> str:
    return f"/v1/users/{user}/jobs/{job}"


def _check(reply: httpx.Response) -> None:
    if reply.is_success:
        return
    reply.read()
    try:
        document = reply.json()
    except json.JSONDecodeError:
        document = {"title": f"HTTP status {reply.status_code}"}
    raise ProblemError(reply.status_code, document)


def _parse(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events (WHATWG HTML 9.2) as jobd sends them: one `data` line each."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            number = fields.get("id")
            yield Event(fields.get("event", "message"), int(number) if number else None, json.loads(fields["data"]))
            fields = {}
