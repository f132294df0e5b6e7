"""The end-to-end part of `jobctl doctor`: a scratch daemon with the site's backend runs a code that does nothing.

It is the real daemon, in this process, in a directory of its own inside the state directory (so that agents need the
same way in), with doors of its own and the site's intervals. Afterwards its agent is ended and the directory removed.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio
from attrs import evolve

from jobd.client import JobdClientError, TrioClient
from jobd.codes import Image
from jobd.config import Config, ConfigError, DockerHost, Tier
from jobd.daemon import check_paths, serve

USER = "jobctl-doctor"
LOOK_S = 0.1
LONELY_S = 5.0
MARGIN_S = 10.0
MEMORY_BYTES = 1 << 28
NOOP = """
name = "noop"
title = "Nothing"
version = "1"
[environment]
PATH = "{path}"
[modes.sequential]
command = ["true"]
[modes.sequential.limits]
memory_bytes = {memory_bytes}
"""
IN_DOCKER = """
[docker]
image = "{image.image}"
python = "{image.python}"
"""


class Unwell(Exception):
    """What is wrong; `advice` says what to do about it."""

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(problem)
        self.advice = advice


def rehearse(config: Config, image: Image | None = None) -> Iterator[tuple[str, str | Unwell]]:
    """Start an agent (in Docker, from this image), run nothing; a name and what came of it for both."""
    found: dict[str, str | Unwell] = {}
    if config.docker.hosts and not _near(config):
        yield "agent", "not tried: no engine shares a disk with this machine"
        return
    try:
        with _scratch(config, image) as scratch, _silent():
            trio.run(_rehearse, scratch, found)
    except (ConfigError, JobdClientError, OSError, TimeoutError) as error:
        name = "run" if "agent" in found else "agent"
        found[name] = Unwell(str(error), "start jobd and see what it logs")
    for name in ("agent", "run"):
        yield name, found.get(name) or Unwell("could not be tried", "mend the agent first")


async def _rehearse(config: Config, found: dict[str, str | Unwell]) -> None:
    agents = config.agents
    patience_s = agents.start_s + agents.call_home_s + MARGIN_S
    failed: list[BaseException] = []
    async with trio.open_nursery() as nursery:

        async def daemon() -> None:
            try:
                await serve(config)
                failed.append(KeyboardInterrupt())  # nothing else ends it
            except (ConfigError, OSError) as error:
                failed.append(error)
            nursery.cancel_scope.cancel(reason="the scratch daemon has ended")

        nursery.start_soon(daemon)
        async with TrioClient(socket=config.admin_socket, patience_s=MARGIN_S) as client:
            try:
                await client.session(USER)
                found["agent"] = await _linked(client, patience_s)
                if not isinstance(found["agent"], Unwell):
                    found["run"] = await _run(client, patience_s)
            except (JobdClientError, TimeoutError) as error:
                failed.append(error)
            finally:
                with trio.move_on_after(agents.stop_s + MARGIN_S, shield=True):
                    await _end(client)
        nursery.cancel_scope.cancel(reason="the rehearsal is over")
    if failed:
        raise failed[0]


async def _linked(client: TrioClient, patience_s: float) -> str | Unwell:
    with trio.move_on_after(patience_s):
        while True:
            agents = (await client.agents()).agents
            if all(agent.linked for agent in agents):
                return "has started and called home"
            for failure in (agent.failure for agent in agents if agent.failure):
                return Unwell(f"it does not start: {failure}", "see the backend and [agents] in the configuration")
            await trio.sleep(LOOK_S)
    return Unwell(f"it did not call home within {patience_s:g} s", "see [agents] of the configuration")


async def _run(client: TrioClient, patience_s: float) -> str | Unwell:
    await client.run(USER, "noop", "noop")
    status = await client.result(USER, "noop", deadline_s=patience_s)
    if status.state == "completed":
        return "a run that does nothing has completed"
    return Unwell(f"it has {status.state}: {status.cause.text if status.cause else ''}", "see the agents' limits")


async def _end(client: TrioClient) -> None:
    """End the agents; if that fails, they end by themselves after LONELY_S."""
    with suppress(JobdClientError):
        for agent in (await client.agents()).agents:
            await client.stop_agent(agent.id)


@contextmanager
def _scratch(config: Config, image: Image | None) -> Iterator[Config]:
    """The site's configuration, in a directory that lasts as long as this."""
    directory = _directory(config)
    codes = directory / "codes"
    try:
        directory.chmod(0o711)  # the agents' uids pass through
        codes.mkdir()
        memory_bytes = min(MEMORY_BYTES, config.host.memory_bytes)
        noop = NOOP.format(path=os.defpath, memory_bytes=memory_bytes)
        (codes / "noop.toml").write_text(noop + (IN_DOCKER.format(image=image) if image else ""))
        yield evolve(
            config,
            docker=evolve(config.docker, hosts=_near(config)),
            state=str(directory / "s"),
            codes=str(codes),
            tiers={"default": Tier()},
            agents=evolve(config.agents, lonely_s=LONELY_S),
            http=evolve(config.http, host="127.0.0.1", port=0, token_file=""),
            tls=evolve(config.tls, host="127.0.0.1", port=0) if config.tls else None,
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _near(config: Config) -> dict[str, DockerHost]:
    """The engines of this machine: elsewhere a relay would be left behind."""
    return {name: host for name, host in config.docker.hosts.items() if host.url.startswith("unix:")}


def _directory(config: Config) -> Path:
    """In the state directory, if there is one and room for the sockets' paths; else where temporary files are."""
    try:
        check_paths(evolve(config, state=str(config.directory / "dr-12345678" / "s")))
        return Path(tempfile.mkdtemp(prefix="dr-", dir=config.directory))
    except (ConfigError, OSError):
        return Path(tempfile.mkdtemp(prefix="dr-"))


@contextmanager
def _silent() -> Iterator[None]:
    """The scratch daemon says what is wrong by its API."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
