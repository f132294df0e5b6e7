"""A small science gateway in Flask: each visitor runs LAMMPS, watches it live, and cancels it.

    make run                                        # jobd, in one terminal; deploy/jobd-dev.toml allows our origin
    .venv/bin/python examples/flask_gateway.py      # in another; then open http://127.0.0.1:5000

The service token stays in this process. A page gets a token of its own from POST /token: for its user and job only,
read-only, for five minutes. With it the page follows events and fetches pictures from jobd directly, so that no thread
of ours waits (static/gateway.js). It travels in the Authorization header, never in a URL or a cookie.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, redirect, render_template, request, session

from jobd.client import Client, JobdClientError, ProblemError

JOB = "melt"
HERE = Path(__file__).parent
BOUNDS = {"steps": (1, 1_000_000), "temperature": (0.1, 10.0)}  # what visitors choose: numbers, never text of a deck
DECK = """units lj
atom_style atomic
lattice fcc 0.8442
region box block 0 10 0 10 0 10
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create {temperature:g} 87287 loop geom
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
fix 1 all nve
dump 1 all custom 50 dump.lammpstrj id type x y z vx vy vz
thermo 50
thermo_modify flush yes
run {steps:.0f}
"""


def gateway(url: str, token: str) -> Flask:
    """The application. A server that forks calls it in each worker: they cannot share a client's connections."""
    app, jobd = Flask(__name__), Client(url, token=token)
    # A site reads the key from a file, sets SESSION_COOKIE_SECURE behind its TLS, and puts its own login into user().
    app.config.update(SECRET_KEY=secrets.token_bytes(32), SESSION_COOKIE_SAMESITE="Lax", MAX_CONTENT_LENGTH=10_000)
    policy = f"default-src 'none'; script-src 'self'; connect-src 'self' {url}; img-src blob:; form-action 'self'; "
    headers = {"Content-Security-Policy": f"{policy} base-uri 'none'; frame-ancestors 'none'"} | {
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"
    }  # fmt: skip

    def user() -> str:
        """Who asks: here everybody is a guest; never a name that the browser sent in another way."""
        return str(session.setdefault("user", f"guest-{secrets.token_hex(8)}"))

    @app.before_request
    def no_forgery() -> None:
        session.setdefault("csrf", secrets.token_urlsafe())
        sent = request.form.get("csrf") or request.headers.get("X-CSRF", "")
        if request.method == "POST" and not secrets.compare_digest(sent.encode(), session["csrf"].encode()):
            abort(403)

    @app.after_request
    def strict(reply: Response) -> Response:
        reply.headers.update(headers)
        return reply

    @app.get("/")
    def page() -> str:
        return render_template("gateway.html", status=jobd.status(user(), JOB), csrf=session["csrf"], bounds=BOUNDS)

    @app.post("/run")
    def run() -> Any:
        jobd.run(user(), JOB, "lammps", inputs={"in.lammps": DECK.format(**chosen(request.form))})
        return redirect("/", 303)

    @app.post("/cancel")
    def cancel() -> Any:
        serial = request.form.get("serial", type=int) or abort(400)  # the run that the page shows, never a later one
        jobd.cancel(user(), JOB, serial)
        return redirect("/", 303)

    @app.post("/token")
    def mint() -> dict[str, str | None]:
        minted = jobd.mint(user(), lifetime_s=300, job=JOB, read_only=True)
        return {"job": f"{url}/v1/users/{user()}/jobs/{JOB}", "token": minted.token}

    @app.get("/result")
    def result() -> Response:
        return Response(b"".join(jobd.log(user(), JOB)), mimetype="text/plain")

    @app.errorhandler(JobdClientError)
    def refused(error: JobdClientError) -> tuple[str, int]:
        return render_template("gateway.html", error=error), error.status if isinstance(error, ProblemError) else 503

    return app


def chosen(form: Mapping[str, str]) -> dict[str, float]:
    """The numbers of the form, each within its bounds."""
    try:
        numbers = {name: float(form[name]) for name in BOUNDS}
    except ValueError:
        abort(400)
    if not all(low <= numbers[name] <= high for name, (low, high) in BOUNDS.items()):  # not true of NaN either
        abort(400)
    return numbers


if __name__ == "__main__":
    state = Path(os.environ.get("JOBD_STATE", HERE.parent / "build" / "state"))
    gateway((state / "address").read_text().strip(), (state / "service-token").read_text().strip()).run(port=5000)
