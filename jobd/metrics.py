"""What a monitoring system scrapes, in Prometheus' text format; names and units by its conventions.

Gauges are read from the parts at the scrape, so nothing keeps a second count of what the parts know. Requests and the
loop's lag are measured as they happen.
"""

from collections import Counter as Tally
from collections.abc import Iterable

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobd.core import Core
from jobd.states import api_state

LAG_PERIOD_S = 0.05

REGISTRY = CollectorRegistry()
REQUESTS = Counter("jobd_http_requests", "HTTP requests answered.", ["route", "status"], registry=REGISTRY)
LAG = Histogram(
    "jobd_loop_lag_seconds",
    "How much later than asked the event loop wakes a task.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    registry=REGISTRY,
)


def exposition(core: Core) -> bytes:
    """Everything, as text."""
    registry = CollectorRegistry()
    registry.register(_Parts(core))
    return generate_latest(registry) + generate_latest(REGISTRY)


async def watch_lag() -> None:
    """Measure the loop's lag for ever."""
    while True:
        due = trio.current_time() + LAG_PERIOD_S
        await trio.sleep_until(due)
        LAG.observe(max(0.0, trio.current_time() - due))


class _Parts(Collector):
    """What is counted there."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def collect(self) -> Iterable[Metric]:
        """As things are now."""
        core = self._core
        runs = GaugeMetricFamily("jobd_open_runs", "Runs whose end is not proved.", labels=["state", "code"])
        tally = Tally((api_state(run.record.state), run.record.code) for run in core.jobs.open_runs())
        for labels, number in tally.items():
            runs.add_metric(labels, number)
        agents = GaugeMetricFamily("jobd_agents", "Agents that are awake.", labels=["linked"])
        awake = [agent for agent in core.fleet.agents.values() if agent.record.awake]
        linked = sum(agent.link is not None for agent in awake)
        agents.add_metric(["yes"], linked)
        agents.add_metric(["no"], len(awake) - linked)
        slots = GaugeMetricFamily("jobd_host_slots", "Slots of a host.", labels=["host", "unit", "kind"])
        up = GaugeMetricFamily("jobd_host_up", "Whether a host can be reached.", labels=["host"])
        waiting = GaugeMetricFamily("jobd_host_waiting", "Runs that wait for slots of a host.", labels=["host"])
        for host in core.hosts:
            pool = host.pool
            for unit, used, there in zip(("cores", "memory_bytes"), pool.used, pool.capacity, strict=True):
                slots.add_metric([host.name, unit, "used"], used)
                slots.add_metric([host.name, unit, "capacity"], there)
            up.add_metric([host.name], not host.failure)
            waiting.add_metric([host.name], pool.waiting)
        ended = CounterMetricFamily("jobd_ended_runs", "Runs whose end was proved.", labels=["state", "cause"])
        for verdict, number in core.jobs.ended.items():
            ended.add_metric(verdict, number)
        yield from (runs, agents, slots, up, waiting, ended)
        for name, text, value in (
            ("jobd_jobs_in_memory", "Jobs that are kept in memory.", core.jobs.kept()),
            ("jobd_store_waiting", "Changes that wait for a commit.", core.store.sequence - core.store.committed),
            ("jobd_store_healthy", "Whether the last commit succeeded.", core.store.healthy),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
