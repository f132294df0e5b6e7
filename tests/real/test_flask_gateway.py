"""examples/flask_gateway.py for real: a web server on loopback, visitors, LAMMPS, and jobd behind it."""

import io
import re
import socket
import sys
import threading
from collections.abc import Iterator
from html import unescape

import httpx
import pytest
from PIL import Image
from realdaemon import DEADLINE_S, HERE, OVER, Daemon, wait_until
from werkzeug.serving import make_server

from jobd.client import Client

sys.path.insert(0, str(HERE.parent.parent / "examples"))
from flask_gateway import gateway


@pytest.fixture(scope="module")
def site(make_module_daemon) -> Iterator[tuple[Daemon, str]]:
    """A daemon and the address of a gateway, each allowed to the other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        daemon = make_module_daemon(http={"origins": [origin]}).start()
        app = gateway(daemon.url, daemon.token)
        server = make_server("127.0.0.1", 0, app, threaded=True, fd=listener.fileno())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield daemon, origin
        server.shutdown()
        thread.join()
        server.server_close()


class Visitor(httpx.Client):
    """A browser, as far as forms, cookies and origins go."""

    def __init__(self, site: tuple[Daemon, str]) -> None:
        self.daemon, self.origin = site
        super().__init__(base_url=self.origin, trust_env=False, follow_redirects=True, timeout=DEADLINE_S)

    def submit(self, path: str, **fields: object) -> httpx.Response:
        """Fill in the form with this action, hidden fields included, and send it."""
        form = re.search(rf'(?s)<form method="post" action="{path}">(.*?)</form>', self.get("/").text)
        assert form, "the page has this form"
        hidden = re.findall(r'<input type="hidden" name="(\w+)"[^>]* value="([^"]*)"', form[1])
        return self.post(path, data={name: unescape(value) for name, value in hidden} | fields)

    def token(self) -> dict[str, str]:
        """What the page's script does first."""
        csrf = re.search(r'data-csrf="([^"]+)"', self.get("/").text)
        reply = self.post("/token", headers={"x-csrf": csrf[1]})
        assert reply.status_code == 200
        return reply.json()

    def to_jobd(self, path: str, said: dict[str, str], method: str = "GET", **headers: str) -> httpx.Response:
        """What the script asks jobd, from the page's origin."""
        headers = {"origin": self.origin, "authorization": f"Bearer {said['token']}", **headers}
        return httpx.request(method, said["job"] + path, headers=headers, trust_env=False, timeout=DEADLINE_S)


@pytest.fixture
def visitor(site) -> Iterator[Visitor]:
    with Visitor(site) as visitor:
        yield visitor


def test_a_visitor_runs_watches_and_cancels(site, visitor):
    daemon, origin = site
    assert visitor.submit("/run", steps=1000000, temperature=3.0).url.path == "/"
    said = visitor.token()
    user, job = said["job"].split("/")[-3], said["job"].split("/")[-1]
    with Client(daemon.url, token=said["token"]) as client:
        for event in client.events(user, job):
            if event.status and event.status.progress and event.status.progress.frames.get("atoms", 0) > 2:
                break
    preflight = httpx.options(
        f"{said['job']}/events",
        headers={"origin": origin, "access-control-request-headers": "authorization,last-event-id"},
    )
    assert preflight.headers["access-control-allow-origin"] == origin
    assert {"authorization", "last-event-id"} <= set(preflight.headers["access-control-allow-headers"].split(", "))
    picture = visitor.to_jobd("/frames/atoms/1?format=png&width=400&serial=1", said)
    assert picture.headers["access-control-allow-origin"] == origin
    assert Image.open(io.BytesIO(picture.content)).size[0] == 400
    assert '<span id="state">running</span>' in visitor.get("/").text
    again = visitor.submit("/run", steps=10, temperature=3.0)
    assert (again.status_code, "The job has an active run" in again.text) == (409, True)
    late = visitor.submit("/cancel", serial=7)  # of a page that showed another run
    assert (late.status_code, daemon.status(user, job)["state"]) == (409, "running")
    assert '<span id="state">canceled</span>' in visitor.submit("/cancel").text
    with Client(daemon.url, token=said["token"]) as client:
        final = client.result(user, job, deadline_s=20)
    assert (final.state, final.end_confirmed) == ("canceled", True)


def test_a_result_is_there_at_the_end(site, visitor):
    visitor.submit("/run", steps=100, temperature=1.44)
    said = visitor.token()
    wait_until(lambda: visitor.to_jobd("", said).json()["state"] in OVER, "it is over", 40)
    assert "completed" in visitor.get("/").text
    result = visitor.get("/result")
    assert "Loop time of" in result.text
    assert result.headers["content-type"].startswith("text/plain")


def test_nothing_is_there_for_who_never_ran_anything(visitor):
    assert '<span id="state">missing</span>' in visitor.get("/").text
    assert (visitor.get("/result").status_code, visitor.get("/nothing").status_code) == (404, 404)
    assert visitor.submit("/cancel").status_code == 400


def test_a_form_of_another_site_does_nothing(site, visitor):
    visitor.get("/")
    with Visitor(site) as other:
        theirs = re.search(r'name="csrf" value="([^"]+)"', other.get("/").text)[1]
    for path in ("/run", "/cancel", "/token"):
        for csrf in ({}, {"csrf": ""}, {"csrf": theirs}, {"csrf": "ü"}):
            refused = visitor.post(path, data={"steps": 1, "temperature": 1, "serial": 1, **csrf})
            assert refused.status_code == 403, (path, csrf)
    assert '<span id="state">missing</span>' in visitor.get("/").text


def test_a_visitors_token_opens_their_job_to_read_and_nothing_else(site, visitor):
    with Visitor(site) as other:
        mine, theirs = visitor.token(), other.token()
    assert mine["job"] != theirs["job"]
    assert visitor.to_jobd("", mine).status_code == 200
    assert visitor.to_jobd("", {**mine, "job": theirs["job"]}).status_code == 403
    assert visitor.to_jobd("", {**mine, "job": mine["job"].replace("melt", "other")}).status_code == 403
    assert visitor.to_jobd("/cancel", mine, "POST").status_code == 403
    foreign = visitor.to_jobd("", mine, origin="http://evil.example")
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize("numbers", [{"steps": "1; shell rm"}, {"steps": "nan"}, {"steps": "1e9"}, {"temperature": ""}])
def test_only_numbers_within_their_bounds_reach_the_code(visitor, numbers):
    assert visitor.submit("/run", **{"steps": 10, "temperature": 1, **numbers}).status_code == 400
    assert '<span id="state">missing</span>' in visitor.get("/").text


def test_the_page_is_strict_and_names_no_token(site, visitor):
    daemon, _ = site
    page = visitor.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert not re.search(r"<script>|<style|\son\w+=|style=", page.text), "nothing inline"
    assert "httponly" in page.headers["set-cookie"].lower()
    assert "samesite=lax" in page.headers["set-cookie"].lower()
    said = visitor.token()
    for secret in (daemon.token, said["token"]):
        assert secret not in visitor.get("/").text
        assert secret not in daemon.log()
    script = visitor.get("/static/gateway.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "innerHTML =" not in script.text


def test_what_a_code_says_is_text_in_the_page(site, visitor):
    daemon, _ = site
    user = visitor.token()["job"].split("/")[-3]
    with Client(daemon.url, token=daemon.token) as jobd:
        jobd.run(user, "melt", "shell", inputs={"script.sh": "exit 1"})
        jobd.cancel(user, "melt", 1, reason="<script>alert(1)</script>")
    page = visitor.get("/").text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
