"""What agents say, and what it does: the way from a link back into the registry.

`serve_link` takes a connection from the gateway through Hello and Welcome; `take` acts on each fact, synchronously. An
agent can only touch runs that are its own: whatever names another is dropped here, before the state table.
"""

import logging
from contextlib import suppress
from functools import partial

import attrs
import trio

from jobd import states
from jobd.agent import Agent
from jobd.causes import cause
from jobd.core import Core
from jobd.dispatch import Situation
from jobd.job import Run
from jobd.link import Link, LinkClosed, Transport
from jobd.orders import start_order, stop_order
from jobd.places import parse
from schemas import codec
from schemas.link import (
    MESSAGE_BYTES_MAX,
    PROTOCOL,
    PROTOCOL_MIN,
    Ack,
    Answer,
    End,
    Ended,
    Epoch,
    Fact,
    Hello,
    Progress,
    Queued,
    Remove,
    Removed,
    Started,
    Taken,
    Welcome,
)
from schemas.records import Ending, Running, Starting

log = logging.getLogger(__name__)


async def serve_link(core: Core, agent: Agent, transport: Transport) -> None:
    """One connection of an agent that has shown its token: until it ends."""
    config = core.config.agents
    link = Link(transport, core.store, config)
    try:
        with trio.fail_after(config.unauthenticated_s):
            hello = codec.decode(await transport.receive(), Fact, MESSAGE_BYTES_MAX)
    except (LinkClosed, codec.CodecError, trio.TooSlowError) as error:
        log.info("agent %s: no hello: %r", agent.record.id, error)
        return
    refusal = _refusal(agent, hello)
    if refusal:
        log.warning("agent %s refused: %s", agent.record.id, refusal)
        with trio.move_on_after(config.unauthenticated_s), suppress(LinkClosed):
            await transport.send(codec.encode(End(refusal)))
        return
    agent.connect(link)
    core.jobs.doubt(agent.record.id)
    _welcome(core, agent, link, hello)
    try:
        await link.run(partial(take, core, agent, link))
    finally:
        agent.disconnect(link, core.world.now())
        core.jobs.doubt(agent.record.id)


def _refusal(agent: Agent, hello: Fact) -> str:
    if not isinstance(hello, Hello):
        return "the first message must be Hello"
    if hello.agent != agent.record.id:
        return "this socket is another agent's"
    if hello.generation != agent.record.generation:
        return f"generation {hello.generation} has been replaced by {agent.record.generation}"
    if not agent.record.awake:
        return "it has been retired"  # since it showed its token, at a door that it shares with others
    if hello.protocol < PROTOCOL_MIN or hello.protocol_min > PROTOCOL:
        return f"jobd speaks protocols {PROTOCOL_MIN} to {PROTOCOL}"
    return ""


def _welcome(core: Core, agent: Agent, link: Link, hello: Hello) -> None:
    """Compare what the agent holds with what jobd knows: keep, stop, order again, or give up as lost."""
    held = {(each.epoch.job, each.epoch.serial): each for each in hello.held}
    ours = {run.key: run for run in core.jobs.runs_on(agent.record.id)}
    orphans = tuple(each.epoch for key, each in held.items() if key not in ours and each.state != "ended")
    protocol = min(hello.protocol, PROTOCOL)
    link.post(Welcome(protocol, agent.record.fact, core.config.agents.heartbeat_s, orphans), core.store.sequence)
    for key, run in ours.items():
        if key not in held:
            if core.fleet.host(agent).enclosure is None:
                core.jobs.advance(run, states.Missed())
            elif not isinstance(run.record.state, Starting):
                _disbelieve(core, run)
        if isinstance(run.record.state, Ending):
            link.post(stop_order(run.record), run.job.sequence)
        elif isinstance(run.record.state, Starting) and key not in held:
            link.post(start_order(run.record), run.job.sequence)
    for removal in core.jobs.removals.get(agent.user.id, {}).values():
        if agent.record.place not in removal.places:
            continue
        link.post(Remove(Epoch(removal.job, removal.serial)), core.store.sequence)


def _disbelieve(core: Core, run: Run) -> None:
    """Its agent knows nothing of it, where that is no proof that nothing of it runs."""
    run.reported = True
    core.jobs.advance(run, states.Expired(cause("lost")))
    run.job.changed.notify()


def take(core: Core, agent: Agent, link: Link, fact: Fact) -> None:
    """Act on one fact of a link that is in order."""
    if agent.link is not link:
        return  # a newer link has replaced this one
    if link.welcomed and link.answered is None:
        link.answered = trio.current_time()
        agent.changed.notify()
    if isinstance(fact, Started | Ended):
        _take_durable(core, agent, link, fact)
    elif isinstance(fact, Taken | Queued | Progress):
        if run := _own(core, agent, fact.epoch):
            _take_word(core, run, fact)
    elif isinstance(fact, Answer):
        if op := agent.ops.get(fact.op):
            op.answered(fact)
    elif isinstance(fact, Removed):
        core.jobs.removed(agent.user, agent.record.place, fact.epoch.job, fact.epoch.serial)
    elif isinstance(fact, Hello):
        log.warning("agent %s said hello twice: link closed", agent.record.id)
        link.close()


def _take_word(core: Core, run: Run, fact: Taken | Queued | Progress) -> None:
    """About a run, and not kept."""
    if isinstance(fact, Progress):
        if parse(run.record.place).role == "run":
            run.warning = fact.problem
            run.job.touch()
        elif isinstance(run.record.state, Running):
            core.jobs.progressed(run, fact)
    elif isinstance(run.record.state, Starting):
        inputs = Situation("inputs", "the agent fetches its inputs and starts it")
        run.waits(_queued(fact) if isinstance(fact, Queued) else inputs)


def _queued(fact: Queued) -> Situation:
    """In the words that people use; a reason that is not the queue's own is the scheduler's."""
    why = f", because of {fact.reason}" if fact.reason and fact.reason != "None" else ""
    when = f"; it expects to start it in {fact.starts_in_s:.0f} s" if fact.starts_in_s is not None else ""
    return Situation("cluster_queue", f"job {fact.job} of the cluster's scheduler is {fact.state}{why}{when}")


def _take_durable(core: Core, agent: Agent, link: Link, fact: Started | Ended) -> None:
    if fact.number > agent.record.fact + 1:
        log.warning("agent %s skipped from fact %d to %d: link closed", agent.record.id, agent.record.fact, fact.number)
        link.close()
        return
    if fact.number == agent.record.fact + 1:
        agent.record = attrs.evolve(agent.record, fact=fact.number)
        if run := _own(core, agent, fact.epoch):
            if isinstance(fact, Started):
                core.jobs.advance(run, states.Started())
            elif core.fleet.host(agent).enclosure is None:
                core.jobs.advance(run, states.Finished(fact))
            else:
                run.reported = True
                core.jobs.advance(run, states.Reported(fact))
    link.post(Ack(fact.number), core.store.put(agent.record))


def _own(core: Core, agent: Agent, epoch: Epoch) -> Run | None:
    """The open run of this epoch if it is this agent's; a stale or foreign serial is dropped here."""
    run = core.jobs.run_of(epoch.job, epoch.serial)
    return run if run is not None and run.agent == agent.record.id else None
