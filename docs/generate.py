"""Make the generated pages: states.md from the state table, faults.md from causes and errors, configuration.md.

`python docs/generate.py` writes them; `--check` fails when one is stale (make check does that).
"""

import sys
import types
import typing
from pathlib import Path
from typing import Any

import attrs

from jobd import config, delivery, errors, states
from jobd.causes import CAUSES, cause
from schemas.link import Ended as EndedFact
from schemas.link import Epoch
from schemas.records import Ended, Ending, Instant, Pending, Running, Starting

HERE = Path(__file__).parent
NOW = Instant(0.0, 0.0, "")
WHY = cause("user")

STATES = {
    Pending: Pending(NOW),
    Starting: Starting(NOW, "a"),
    Running: Running(NOW, "a"),
    Ending: Ending(NOW, "a", "canceled", WHY),
    Ended: Ended(NOW, "completed", cause("completed")),
}
EVENTS = {
    states.Admitted: states.Admitted(),
    states.Ordered: states.Ordered("a"),
    states.Started: states.Started(),
    states.Finished: states.Finished(EndedFact(1, Epoch("jaaaaaaaaa", 1), "exited", 0.0, exit_code=0)),
    states.Reported: states.Reported(EndedFact(1, Epoch("jaaaaaaaaa", 1), "exited", 0.0, exit_code=0)),
    states.Proved: states.Proved(cause("agent_lost")),
    states.Canceled: states.Canceled(WHY),
    states.Expired: states.Expired(cause("run_timeout")),
    states.Missed: states.Missed(),
    states.Forgotten: states.Forgotten(cause("forgotten")),
}


def state_page() -> str:
    """The diagram and the table of a run's life."""
    arrows: dict[tuple[str, str], list[str]] = {}
    rows = []
    for (state, event), row in states.TRANSITIONS.items():
        after = type(row.move(STATES[state], EVENTS[event], NOW)).__name__
        if after != state.__name__:
            arrows.setdefault((state.__name__, after), []).append(event.__name__)
        rows.append(f"| {state.__name__} | {event.__name__} | {after} | {row.stage or '-'} | {row.reason} |")
    lines = [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in arrows.items()]
    docs = "\n".join(f"- **{kind.__name__}**: {kind.__doc__}" for kind in (*STATES, *EVENTS))
    return f"""# The life of a run

Generated from `TRANSITIONS` in jobd/states.py by docs/generate.py.

```mermaid
stateDiagram-v2
    [*] --> Pending: accepted
{chr(10).join(lines)}
    Ended --> [*]
```

For callers, Pending and Starting are `pending`, Running is `running`, and Ending and Ended are their verdict
(`completed`, `failed`, `canceled`); `end_confirmed` tells these two apart.

## States and events

{docs}

## Every move

A row with a reason is a race. What the table does not list cannot happen: a Pending run has no agent, so facts about
it are dropped before the table.

| state | event | then | stage in the timeline | why |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""


def fault_page() -> str:
    """Why runs end, and what requests are refused with."""
    causes = "\n".join(f"| `{code}` | {verdict} | {text} |" for code, (verdict, text) in CAUSES.items())
    kinds = sorted(
        (kind for module in (errors, delivery) for kind in vars(module).values() if is_error(kind)),
        key=lambda kind: (kind.status, kind.code),
    )
    problems = "\n".join(f"| {kind.status} | `{kind.code}` | {kind.sentence} |" for kind in dict.fromkeys(kinds))
    return f"""# Faults: what the user sees

Generated from jobd/causes.py and jobd/errors.py by docs/generate.py.

## Why a run ended

The `cause` of a status: a stable code, a sentence (often a more exact one than here), and who did it.

| code | state | sentence |
| --- | --- | --- |
{causes}

## What a request is refused with

RFC 9457 problem documents; `code` is stable, `title` is the sentence, `detail` says more.

| HTTP | code | sentence |
| --- | --- | --- |
{problems}
"""


def is_error(kind: object) -> bool:
    """Whether this is one of jobd's errors."""
    return isinstance(kind, type) and issubclass(kind, errors.JobdError)


def configuration_page() -> str:
    """Every setting of jobd.toml, with its default and meaning."""
    tables = [f"{config.Config.__doc__}\n\n{settings(config.Config)}"]
    for each in attrs.fields(config.Config):
        kind = config.Tier if each.name == "tiers" else table(each.type)
        if kind:
            title = "tiers.<name>" if each.name == "tiers" else each.name
            tables.append(f"## [{title}]\n\n{kind.__doc__}\n\n{settings(kind)}")
        if each.name == "docker":
            host = config.DockerHost
            tables.append(f"## [docker.hosts.<name>]\n\n{host.__doc__}\n\n{settings(host)}")
    return f"""# Configuration

Generated from jobd/config.py by docs/generate.py; deploy/jobd.toml is an example. One TOML file, read strictly: an
unknown key or a value out of its range is refused with its name. Durations are seconds, sizes bytes. `jobd` reads it
at its start.

{chr(10).join(tables)}"""


def table(kind: Any) -> type | None:
    """The class of a setting that is a table, which may be optional."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return next((each for each in kinds if attrs.has(each)), None)


def settings(kind: type) -> str:
    """The table of one class's settings."""
    hints = typing.get_type_hints(kind)
    rows = []
    for each in attrs.fields(kind):
        if not table(each.type):
            default = "" if each.default is attrs.NOTHING else shown(each.default)
            rows.append(f"| `{each.name}` | {worded(hints[each.name])} | {default} | {each.metadata['about']} |")
    return "| setting | type | default | meaning |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"


def shown(default: Any) -> str:
    """A default, as TOML has it."""
    if default is None or isinstance(default, type(attrs.Factory(dict))):
        return ""
    if isinstance(default, tuple):
        return f"`{list(default)}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default}`"


def worded(hint: Any) -> str:
    """A type, in TOML's words."""
    words = {str: "string", int: "integer", float: "number", bool: "boolean", tuple[str, ...]: "list of strings"}
    return words.get(hint) or ("table" if typing.get_origin(hint) is dict else "integer")


PAGES = {"states.md": state_page, "faults.md": fault_page, "configuration.md": configuration_page}


def main() -> int:
    """Write the pages, or check them."""
    stale = [name for name, page in PAGES.items() if not (HERE / name).exists() or (HERE / name).read_text() != page()]
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/{name} is stale: run `.venv/bin/python docs/generate.py`")
        return 1 if stale else 0
    for name in stale:
        (HERE / name).write_text(PAGES[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
