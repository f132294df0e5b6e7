"""The handlers about the site and the daemon itself: what is offered, health, metrics."""

from jobd.core import Core
from jobd.metrics import exposition
from jobd.web.calls import Call, Reply
from schemas.views import CodesView, CodeView, HealthView, ModeView


async def healthz(core: Core, call: Call) -> Reply:
    """The daemon answers."""
    return Reply(HealthView("alive"))


async def readyz(core: Core, call: Call) -> Reply:
    """The daemon can accept work."""
    core.store.check()
    return Reply(HealthView("ready"))


async def metrics(core: Core, call: Call) -> Reply:
    """For Prometheus."""
    return Reply(exposition(core), type="text/plain; version=0.0.4; charset=utf-8")


async def codes(core: Core, call: Call) -> Reply:
    """GET codes."""
    offered = [
        CodeView(
            name=code.name,
            title=code.title,
            version=code.version,
            modes={
                name: ModeView(mode.cores, mode.cores_max, mode.limits.memory_bytes, mode.limits.run_s)
                for name, mode in code.modes.items()
                if name != "batch" or any(code.name in site.codes for site in core.sites.values())
            },
            inputs=code.inputs.required,
            views=code.analysis.views if code.analysis else (),
            methods=code.analysis.methods if code.analysis else (),
            compute=code.analysis.compute if code.analysis else (),
        )
        for code in core.codes.values()
    ]
    return Reply(CodesView(tuple(offered)))
