"""How each reply of the API looks to people: one function for each class of schemas.views."""

from functools import singledispatch
from typing import Any

from jobd.ctl import show
from schemas.views import (
    AgentsView,
    AgentView,
    CodesView,
    ExplainView,
    FileView,
    HistoryView,
    HostsView,
    HostView,
    JobsView,
    LibraryView,
    ListingView,
    PoolsView,
    PoolView,
    RunUsageView,
    RunView,
    SessionView,
    StageView,
    TokensView,
    TokenView,
    TreeView,
    UserUsageView,
    UserView,
)


@singledispatch
def view(reply: Any) -> None:
    """Print a reply for people."""
    raise AssertionError(f"nobody has said how {type(reply).__name__} looks")


# --- runs


@view.register
def _(run: RunView) -> None:
    show.line(
        (f"{run.user}/{run.job}", "bold"),
        "  ",
        _styled(run.state),
        f"  run {run.serial}  {run.code} {run.mode}" if run.serial else "",
    )
    known = run.known
    show.fields(
        waits=run.situation and _waits(run),
        progress=run.progress and run.progress.text,
        problem=run.progress and run.progress.problem,
        cause=run.cause and run.cause.text,
        end="not confirmed yet" if run.end_confirmed is False else None,
        earlier=f"the end of run {', '.join(map(str, run.previous_ending))} is not confirmed yet"
        if run.previous_ending
        else None,
        known=f"unknown for {known.age_s or 0:g} s" if known and known.state == "unknown" else None,
        used=_used(run.usage),
    )
    _timeline(run.timeline)
    if run.state == "failed" and run.log_tail:
        show.line("  the end of its log:")
        show.line(run.log_tail.removesuffix("\n"))


@view.register
def _(page: JobsView) -> None:
    rows = (
        (run.user, run.job, run.serial, run.state, run.code, run.mode, run.accepted_at, brief(run)) for run in page.jobs
    )
    show.table(("USER", "JOB", "RUN", "STATE", "CODE", "MODE", "ACCEPTED", "WHAT"), rows)


@view.register
def _(history: HistoryView) -> None:
    rows = (
        (
            *(run.serial, run.state, run.code, run.code_version, run.mode, run.cores, run.accepted_at, run.ended_at),
            run.usage and run.usage.wall_s,
            run.cause and run.cause.text,
        )
        for run in history.runs
    )
    show.table(
        ("RUN", "STATE", "CODE", "VERSION", "MODE", "CORES", "ACCEPTED", "ENDED", "WALL_S", "CAUSE"),
        rows,
    )


@view.register
def _(explained: ExplainView) -> None:
    show.line(_styled(explained.state), f"  run {explained.serial}" if explained.serial else "")
    pool, agent, ahead = explained.pool, explained.agent, explained.situation and explained.situation.ahead
    show.fields(
        why=explained.why,
        ahead=ahead,
        wants=_amounts(pool.units, explained.wanted) if pool else None,
        pool=f"{pool.name}: {_amounts(pool.units, pool.used, pool.capacity)}, {pool.waiting} waiting" if pool else None,
        agent=f"{agent.id}, {'linked' if agent.linked else agent.stage or 'not linked'}" if agent else None,
        failure=agent and agent.failure,
        actor=explained.cause and explained.cause.actor,
        limits=explained.limits and ", ".join(f"{name} {value:g}" for name, value in explained.limits.items()),
    )
    _timeline(explained.timeline)


def brief(run: RunView) -> str:
    """What there is to say of a run, in a few words."""
    if run.cause:
        return run.cause.text
    if run.situation:
        return _waits(run)
    return run.progress.text if run.progress else ""


def _waits(run: RunView) -> str:
    assert run.situation
    return run.situation.text + (f", {run.situation.ahead} ahead" if run.situation.ahead else "")


def _styled(state: str) -> show.Part:
    return state, show.STYLES.get(state, "")


def _timeline(stages: tuple[StageView, ...]) -> None:
    for stage in stages:
        show.line(f"  {stage.at}  {show.flat(stage.name):14} {show.flat(stage.text)}".rstrip())


def _used(usage: RunUsageView | None) -> str | None:
    if usage is None:
        return None
    return f"{usage.wall_s:.2f} s, {usage.cpu_s:.2f} s of CPU, at most {usage.peak_memory_bytes} bytes of memory"


def _amounts(units: tuple[str, ...], amounts: tuple[int, ...], of: tuple[int, ...] = ()) -> str:
    total = [f"/{each}" for each in of] or [""] * len(amounts)
    return ", ".join(f"{unit} {amount}{all_}" for unit, amount, all_ in zip(units, amounts, total, strict=False))


# --- files


@view.register
def _(listing: ListingView) -> None:
    show.table(("PATH", "BYTES", "AGE_S"), ((file.path, file.bytes, file.age_s) for file in listing.files))
    if listing.truncated:
        show.note("there are more files than one listing shows")


@view.register
def _(shelf: LibraryView) -> None:
    rows = ((file.name, file.bytes, file.modified_at, file.sha256) for file in shelf.files)
    show.table(("NAME", "BYTES", "MODIFIED", "SHA256"), rows)


@view.register
def _(file: FileView) -> None:
    show.line(f"{file.name}  {file.bytes} bytes  SHA-256 {file.sha256}")


# --- users


@view.register
def _(used: UserUsageView) -> None:
    show.line((used.user, "bold"), f"  tier {used.tier}")
    show.fields(
        runs=used.runs,
        core_s=f"{used.core_s:g}",
        cpu_s=f"{used.cpu_s:g}",
        library=f"{used.library_files} files, {used.library_bytes} bytes",
    )
    if used.jobs:
        show.table(
            ("JOB", "RUNS", "CORE_S", "CPU_S"), ((job.job, job.runs, job.core_s, job.cpu_s) for job in used.jobs)
        )


@view.register
def _(tokens: TokensView) -> None:
    rows = ((token.id, token.expires_at, token.job, token.read_only) for token in tokens.tokens)
    show.table(("ID", "EXPIRES", "JOB", "READ_ONLY"), rows)


@view.register
def _(token: TokenView) -> None:
    show.note(f"token {token.id}, valid until {token.expires_at}; its text is said only now:")
    show.line(token.token or "")


@view.register
def _(user: UserView) -> None:
    show.line((user.user, "bold"), f"  tier {user.tier}")


@view.register
def _(session: SessionView) -> None:
    show.line(f"{session.agent}  {session.stage}")


# --- the daemon and the site


@view.register
def _(page: AgentsView) -> None:
    _agents(page.agents)


@view.register
def _(agent: AgentView) -> None:
    _agents((agent,))


def _agents(agents: tuple[AgentView, ...]) -> None:
    headers = ("ID", "USER", "PLACE", "GENERATION", "LINKED", "STAGE", "HEARD_S", "RUNS", "FAILURES", "FAILURE")
    rows = (
        (
            *(agent.id, agent.user, agent.place, agent.generation, agent.linked, agent.stage, agent.heard_s),
            *(agent.open_runs, agent.failures, agent.failure),
        )
        for agent in agents
    )
    show.table(headers, rows)


@view.register
def _(page: HostsView) -> None:
    headers = ("HOST", "GROUP", "STATE", "CORES", "MEMORY_BYTES", "WAITING", "AGENTS", "RUNS", "FAILURE")
    rows = (
        (
            *(host.name, host.group, host.state),
            *(f"{used}/{there}" for used, there in zip(host.pool.used, host.pool.capacity, strict=False)),
            *(host.pool.waiting, host.agents, host.runs, host.failure),
        )
        for host in page.hosts
    )
    show.table(headers, rows)


@view.register
def _(host: HostView) -> None:
    view(HostsView((host,)))


@view.register
def _(page: PoolsView) -> None:
    rows = (
        (pool.name, unit, used, capacity, pool.waiting)
        for pool in page.pools
        for unit, used, capacity in zip(pool.units, pool.used, pool.capacity, strict=False)
    )
    show.table(("POOL", "UNIT", "USED", "CAPACITY", "WAITING"), rows)


@view.register
def _(pool: PoolView) -> None:
    view(PoolsView((pool,)))


@view.register
def _(live: TreeView) -> None:
    for node in live.tree:
        show.line(
            "  " * node.depth,
            f"{node.kind} ",
            (show.flat(node.name), "bold"),
            (f"  {show.flat(node.doing)}" if node.doing else "", "dim"),
            (f"  {show.flat(node.cause)}" if node.cause else "", "red"),
        )


@view.register
def _(offered: CodesView) -> None:
    rows = (
        (code.name, code.version, tuple(code.modes), code.inputs, code.views, code.methods, code.title)
        for code in offered.codes
    )
    show.table(("CODE", "VERSION", "MODES", "INPUTS", "VIEWS", "METHODS", "TITLE"), rows)
