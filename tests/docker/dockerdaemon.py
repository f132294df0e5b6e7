"""A real jobd whose agents are in containers of a real engine, and what a test sees of them behind jobd's back."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import httpx
from realdaemon import DEADLINE_S, Daemon, short_directory, wait_until

CODES = Path(__file__).parent / "codes"
WAITS = "echo begun; sleep 600"


class DockerDaemon(Daemon):
    """See Daemon; `engines` are urls of engines by the name that jobd gives their hosts."""

    def __init__(
        self,
        home: Path,
        engine: docker.DockerClient,
        hosts: Mapping[str, Mapping[str, Any]],
        tables: Mapping[str, Mapping[str, Any]] | None = None,
        codes: Path = CODES,
        *,
        shipped: bool = False,
    ) -> None:
        given = dict(tables or {})
        small = {} if shipped else {"call_s": 3.0, "ping_s": 0.3}
        patient = {} if shipped else {"backoff_s_max": 1.0, "call_home_s": 30.0}
        settings = {**small, **given.pop("docker", {})}
        merged = {"agents": {**patient, **given.pop("agents", {})}, **given}
        super().__init__(
            home, {**merged, "docker": {**settings, "hosts": dict(hosts)}}, shipped=shipped, codes=str(codes)
        )
        self.engine = engine

    def end(self) -> None:
        """Stop it, and remove its containers (whose agents would end by themselves after lonely_s)."""
        try:
            super().end()
        finally:
            for container in self.containers(all=True):
                with contextlib.suppress(docker.errors.NotFound):
                    container.remove(force=True, v=True)

    @property
    def instance(self) -> str:
        return (self.state / "instance").read_text().strip()

    def containers(self, role: str = "", **options: Any) -> list[Any]:
        """Its containers on the first engine; with a role, those of agents for runs or for views."""
        if not (self.state / "instance").exists():
            return []
        found = self.engine.containers.list(
            filters={"label": [f"jobd.instance={self.instance}", "jobd.agent"]}, **options
        )
        with_role = {agent["id"]: agent["place"] for agent in self.agents()} if role else {}
        return [each for each in found if f"/{role}." in with_role.get(each.labels["jobd.agent"], "") or not role]

    def agents(self) -> list[dict[str, Any]]:
        return self.operator("/v1/admin/agents")["agents"]

    def operator(self, path: str, body: Any = None) -> Any:
        """What an operator gets from the admin socket, or posts there."""
        transport = httpx.HTTPTransport(uds=str(self.state / "admin.sock"))
        with httpx.Client(transport=transport, base_url="http://jobd", timeout=DEADLINE_S) as admin:
            reply = admin.get(path) if body is None else admin.post(path, json=body)
            assert reply.status_code < 300, reply.text
            return reply.json()

    def container(self, user: str, job: str) -> Any:
        """The container in which the job's newest run is."""
        run = next(agent for agent in self.agents() if any(each.startswith(f"{job}/") for each in agent["open_runs"]))
        assert run["user"] == user
        (found,) = [each for each in self.containers() if each.labels["jobd.agent"] == run["id"]]
        return found

    def pids(self, container: Any) -> set[int]:
        """Its processes, as this machine sees them."""
        with contextlib.suppress(docker.errors.APIError):
            return {int(row[0]) for row in container.top(ps_args="-eo pid")["Processes"]}
        return set()

    def running(self, user: str, job: str, script: str = WAITS, **request: Any) -> Any:
        """Start a script and wait until it runs and has said its first line; returns its container."""
        self.run(user, job, script, **request)
        self.until(user, job, "running", 60)
        if "echo begun" in script:
            wait_until(lambda: "begun" in self.said(user, job), "the run's first line", DEADLINE_S)
        return self.container(user, job)

    def said(self, user: str, job: str) -> str:
        """The run's log, from the disk."""
        record = self._record("SELECT record FROM jobs WHERE name = ? AND user = ?", job, self._user(user))
        if not (self.state / "runs").exists():  # it is on another host
            with self.http() as http:
                reply = http.get(f"/v1/users/{user}/jobs/{job}/log")
                return reply.text if reply.status_code == 200 else ""
        path = self.state / "runs" / record["user"] / ".jobd" / "runs" / f"{record['id']}.{record['serial']}" / "log"
        return path.read_text(errors="replace") if path.exists() else ""


def daemons(engine: docker.DockerClient) -> Iterator[Callable[..., DockerDaemon]]:
    """Makes daemons on the engine, with the TOML tables that differ; they are not started, and ended at the end."""
    with contextlib.ExitStack() as stack:

        def make(host: dict[str, Any] | None = None, codes: Path = CODES, **tables: Any) -> DockerDaemon:
            hosts = {"here": {"url": engine.url, "cores": 8, "memory_bytes": 8 << 30, **(host or {})}}
            daemon = DockerDaemon(stack.enter_context(short_directory()), engine, hosts, tables, codes)
            stack.callback(daemon.end)
            return daemon

        yield make
