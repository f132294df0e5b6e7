"""`make bench` measures all; `python -m tests.bench grants watching` some."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .containers import in_containers
from .crowds import agent_process, connections, finished, grants
from .figures import Figure, save, show
from .reads import polling, watching
from .runs import cold, throughput, warm

FIGURES: dict[str, Callable[[], list[Figure]]] = {
    "warm": lambda: warm(300),
    "cold": lambda: cold(15),
    "throughput": lambda: throughput(150),
    "polling": lambda: polling(2.0, 5),
    "watching": lambda: watching(5),
    "grants": lambda: grants(5000, 50),
    "finished": lambda: finished(10_000),
    "connections": lambda: connections(1000),
    "agent": agent_process,
    "containers": lambda: in_containers(15),
}


def main() -> None:
    """Measure, show, and write build/bench.json when all were measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", nargs="*", choices=[[], *FIGURES], help="which ones; without any, all")
    chosen = parser.parse_args().figures or list(FIGURES)
    figures = []
    for name in chosen:
        figures += FIGURES[name]()
        show(figures[-1:]) if len(chosen) > 1 else None
    show(figures)
    if len(chosen) == len(FIGURES):
        save(figures, Path("build/bench.json"))


if __name__ == "__main__":
    main()
