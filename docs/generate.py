"""Make the generated pages: docs/states.md from the state table, docs/faults.md from causes and errors.

`python docs/generate.py` writes them; `--check` fails when one is stale (make check does that).
"""

import sys
from pathlib import Path

from jobd import delivery, errors, states
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
    states.Canceled: states.Canceled(WHY),
    states.Expired: states.Expired(cause("run_timeout")),
    states.Missed: states.Missed(),
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


PAGES = {"states.md": state_page, "faults.md": fault_page}


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
