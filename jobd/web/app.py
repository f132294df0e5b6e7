"""The control resources, on Quart-Trio: small JSON in, small JSON out. Streams are plain ASGI (web/streams.py)."""

import logging
from typing import Any

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from jobd import plans
from jobd.core import Core
from jobd.delivery import Collected
from jobd.errors import Invalid, JobdError, NotFound, TooLarge
from jobd.web.doors import Door, decoded, named, problem
from schemas import codec
from schemas.api import CancelRequest, RunRequest

log = logging.getLogger(__name__)


def control_app(core: Core, door: Door) -> QuartTrio:
    """The app of one door."""
    app = QuartTrio("jobd")
    app.config["MAX_CONTENT_LENGTH"] = core.config.http.body_bytes_max
    app.config["PROPAGATE_EXCEPTIONS"] = False
    _add_errors(app, core)
    _add_jobs(app, core, door)
    _add_operations(app, core, door)
    return app


def reply(data: Any, status: int = 200, **headers: str) -> Response:
    """A JSON reply of an attrs instance or plain data; header names with _ for -."""
    named_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(codec.dumps(codec.to_data(data)), status, named_headers, "application/json")


async def body(kind: Any, core: Core) -> Any:
    """The request's body as `kind`; an empty one as an empty object. Raises Invalid that names the field."""
    data = await request.get_data(as_text=False)
    assert isinstance(data, bytes)
    return decoded(data, kind, core.config.http.body_bytes_max)


def _add_errors(app: QuartTrio, core: Core) -> None:
    def answer(error: JobdError) -> Response:
        status, headers, document = problem(error)
        return Response(document, status, dict(headers))

    @app.errorhandler(JobdError)
    async def known(error: JobdError) -> Response:
        return answer(error)

    @app.errorhandler(RequestEntityTooLarge)
    async def too_large(_: RequestEntityTooLarge) -> Response:
        limit = core.config.http.body_bytes_max
        return answer(TooLarge(f"It takes {limit} bytes.", limit=limit))

    @app.errorhandler(HTTPException)
    async def http(error: HTTPException) -> Response:
        status = error.code or 500
        refused = NotFound() if status == 404 else JobdError(error.description or "")
        _, headers, _ = problem(refused)
        document = {
            "type": "about:blank",
            "title": error.name,
            "status": status,
            "code": refused.code if status == 404 else error.name.lower().replace(" ", "_"),
            "detail": error.description or error.name,
        }
        return Response(codec.dumps(document), status, dict(headers))

    @app.errorhandler(Exception)
    async def bug(error: Exception) -> Response:
        log.exception("a request failed in jobd itself", exc_info=error)
        return answer(JobdError())


def _add_jobs(app: QuartTrio, core: Core, door: Door) -> None:
    requests = core.config.requests
    base = "/v1/users/<user>/jobs/<job>"

    def enter(user: str, job: str) -> None:
        door.enter(_raw_headers())
        named(user=user, job=job)

    @app.put(f"{base}/run")
    async def run(user: str, job: str) -> Response:
        enter(user, job)
        plan = plans.accept(core, user, job, await body(RunRequest, core))
        status, view = await core.ask(plan, user, job, "run", requests.deadline_s)
        return reply(view, status)

    @app.get(base)
    async def status(user: str, job: str) -> Response:
        enter(user, job)
        seen, wait_s = _seen(), _wait_s()
        plan = plans.status(core, user, job, seen, wait_s)
        revision, view = await core.ask(plan, user, job, "status", requests.deadline_s + wait_s)
        etag = f'"{revision}"'
        if revision == seen:
            return Response(b"", 304, {"etag": etag})
        return reply(view, etag=etag, cache_control="no-cache")

    @app.post(f"{base}/cancel")
    async def cancel(user: str, job: str) -> Response:
        enter(user, job)
        principal = door.enter(_raw_headers())
        actor = f"{principal.kind} for {user}" if principal.kind == "gateway" else principal.kind
        plan = plans.cancel(core, user, job, await body(CancelRequest, core), actor)
        return reply(await core.ask(plan, user, job, "cancel", requests.deadline_s + requests.settle_s))

    @app.get(f"{base}/files")
    async def files(user: str, job: str) -> Response:
        enter(user, job)
        sink = Collected()
        await core.ask(plans.list_files(core, user, job, serial_asked(), sink), user, job, "files", requests.deadline_s)
        return Response(b"".join(sink.pieces), 200, {"jobd-serial": str(sink.head[0].serial)}, "application/json")


def _add_operations(app: QuartTrio, core: Core, door: Door) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return reply({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> Response:
        core.store.check()
        return reply({"status": "ready"})

    @app.get("/v1/codes")
    async def codes() -> Response:
        door.enter(_raw_headers())
        offered = [
            {
                "name": code.name,
                "title": code.title,
                "version": code.version,
                "modes": {name: {"cores_max": mode.cores_max} for name, mode in code.modes.items()},
                "inputs": code.inputs.required,
                "views": code.analysis.views if code.analysis else (),
                "methods": code.analysis.methods if code.analysis else (),
            }
            for code in core.codes.values()
        ]
        return reply({"codes": tuple(offered)})

    @app.get("/v1/admin/tree")
    async def tree() -> Response:
        door.enter(_raw_headers()).may_administer()
        nodes = [
            {
                "depth": depth,
                "kind": scope.kind,
                "name": scope.name,
                "doing": scope.doing,
                "cause": scope.cause.code if scope.cause else None,
            }
            for depth, scope in core.root.walk()
        ]
        return reply({"tree": tuple(nodes)})


def serial_asked() -> int | None:
    """The serial in the query; raises Invalid."""
    text = request.args.get("serial")
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text[:20]) < 1 << 53:
        raise Invalid("serial must be a positive integer.", field="serial")
    return int(text)


def _raw_headers() -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in request.headers.items()]


def _seen() -> int | None:
    """The revision in If-None-Match, if it is one of ours."""
    tag = request.headers.get("if-none-match", "").removeprefix("W/").strip('"')
    return int(tag) if tag.isdecimal() and len(tag) < 20 else None


def _wait_s() -> float:
    """The seconds of `Prefer: wait=N` (RFC 7240); zero without; raises Invalid."""
    for preference in request.headers.get("prefer", "").split(","):
        name, _, value = preference.strip().partition("=")
        if name.lower() == "wait":
            if not value.strip().isdecimal() or len(value) > 6:
                raise Invalid("wait must be a whole number of seconds.", field="prefer")
            return float(value)
    return 0.0
