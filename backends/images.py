"""Images on an engine: there already, or loaded from a file of the site's, or pulled from their registry."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import trio
from attrs import frozen

from backends.base import BackendError
from backends.engine import Engine, Missing


@frozen
class Source:
    """Where a missing image is looked for."""

    files: Path | None  # <name>.tar, with / and : as _
    pulls: bool


async def fetch(engine: Engine, image: str, source: Source, tell: Callable[[str], None]) -> str:
    """Have the image there; returns its digest: the registry's, or else the id that the engine computed."""
    found = await _inspect(engine, image)
    if found is None and source.files is not None:
        file = source.files / f"{image.replace('/', '_').replace(':', '_')}.tar"
        if await trio.to_thread.run_sync(file.is_file):
            await engine.run(lambda client: _load(client, file, _telling(tell, f"loading image {image}")))
            found = await _inspect(engine, image)
    if found is None and source.pulls:
        await engine.run(lambda client: _pull(client, image, _telling(tell, f"pulling image {image}")))
        found = await _inspect(engine, image)
    if found is None:
        raise BackendError(f"the image {image} is not there")
    return str((found.get("RepoDigests") or [found["Id"]])[0])


async def _inspect(engine: Engine, image: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = await engine.call("inspect_image", image)
    except Missing:
        return None
    return found


def _telling(tell: Callable[[str], None], what: str) -> Callable[[str], None]:
    """From a thread, to the loop."""
    return lambda progress: trio.from_thread.run_sync(tell, f"{what}: {progress}")


def _load(client: docker.APIClient, file: Path, tell: Callable[[str], None]) -> None:
    size = file.stat().st_size
    with file.open("rb") as content:
        told = -1

        def pieces() -> Any:
            nonlocal told
            while piece := content.read(1 << 20):
                yield piece
                if (percent := content.tell() * 100 // size) >= told + 5:
                    told = percent
                    tell(f"{percent} %")

        _check(client.load_image(pieces()))


def _pull(client: docker.APIClient, image: str, tell: Callable[[str], None]) -> None:
    layers: dict[str, tuple[int, int]] = {}

    def heard() -> Any:
        for event in client.pull(image, stream=True, decode=True):
            detail = event.get("progressDetail") or {}
            if detail.get("total"):
                layers[event["id"]] = detail["current"], detail["total"]
                there, whole = (sum(each) for each in zip(*layers.values(), strict=True))
                tell(f"{there * 100 // whole} % of {whole >> 20} MiB")
            yield event

    _check(heard())


def _check(events: Any) -> None:
    for event in events or ():
        if isinstance(event, dict) and event.get("error"):
            raise docker.errors.APIError(event["error"])
