"""What operators do to hosts."""

import logging
from functools import partial

from jobd.core import Core, gated
from jobd.dispatch import Act, Plan, Request
from jobd.errors import NotFound
from jobd.views import view_host
from schemas.api import DrainRequest
from schemas.records import HostRecord
from schemas.views import HostView

log = logging.getLogger(__name__)


def drain(core: Core, name: str, ask: DrainRequest, actor: str) -> Plan[HostView]:
    """POST drain: start nothing new on this host, or again; what is there goes on, and warm agents are culled."""

    def plan(request: Request) -> Act[HostView]:
        host = core.hosts.get(name)
        if host is None:
            raise NotFound
        core.store.check()
        # commit
        log.warning("host %s is %s by %s", name, "drained" if ask.draining else "opened again", actor)
        host.drain(ask.draining)
        sequence = core.store.put(HostRecord(name, ask.draining))
        return partial(gated, core, sequence, view_host(host, core.fleet, core.jobs.open_runs()))

    return plan
