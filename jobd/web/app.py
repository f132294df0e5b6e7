"""The control resources, on Quart-Trio: small JSON in and out. Streams and the hottest reads are in front.py."""

import logging
from collections.abc import Awaitable, Callable

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from jobd.core import Core
from jobd.errors import JobdError, NotFound, TooLarge
from jobd.metrics import REQUESTS
from jobd.web.calls import Call, Route, decoded, enter, problem
from jobd.web.doors import Door
from jobd.web.front import query_of
from schemas import codec

log = logging.getLogger(__name__)


def control_app(core: Core, door: Door, routes: tuple[Route, ...]) -> QuartTrio:
    """The app of one door."""
    app = QuartTrio("jobd", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = core.config.http.body_bytes_max
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.merge_slashes = False  # //v1/admin is not /v1/admin: a proxy in front may have a rule about one of them
    _add_errors(app, core)
    for route in routes:
        # The front's resources are named here too, so that a wrong method on them is 405 with all that is allowed.
        path = route.path.replace("{path}", "<path:path>").replace("{", "<").replace("}", ">")
        view = _elsewhere if route.stream or route.hot else _view(core, door, route)
        app.add_url_rule(path, f"{route.method} {path}", view, methods=[route.method])
    return app


async def _elsewhere(**_: str) -> Response:
    """Only a HEAD comes through to what the front serves."""
    raise MethodNotAllowed


def _view(core: Core, door: Door, route: Route) -> Callable[..., Awaitable[Response]]:
    """A route as Quart calls it."""
    serve, name = route.serve, f"{route.method} {route.path}"
    assert serve is not None, "a control route"

    async def view(**parts: str) -> Response:
        raw = [(key.encode("latin-1"), value.encode("latin-1", "replace")) for key, value in request.headers.items()]
        principal = enter(door, route, parts, raw)
        body = None
        if route.request is not None:
            data = await request.get_data(as_text=False)
            assert isinstance(data, bytes), "asked for as bytes"
            body = decoded(data, route.request, core.config.http.body_bytes_max)
        headers = {key.lower(): value for key, value in request.headers.items()}
        reply = await serve(core, Call(principal, parts, query_of(request.query_string), headers, body))
        REQUESTS.labels(name, reply.status).inc()
        return Response(reply.encoded(), reply.status, dict(reply.headers), content_type=reply.type)

    return view


def _add_errors(app: QuartTrio, core: Core) -> None:
    def answer(error: JobdError) -> Response:
        status, headers, document = problem(error)
        REQUESTS.labels("refused", status).inc()
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
        if status == 405:
            headers.append(("allow", ", ".join(sorted(getattr(error, "valid_methods", None) or ()))))
        return Response(codec.dumps(document), status, dict(headers))

    @app.errorhandler(Exception)
    async def bug(error: Exception) -> Response:
        log.exception("a request failed in jobd itself", exc_info=error)
        return answer(JobdError())
