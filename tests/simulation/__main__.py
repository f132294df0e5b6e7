"""`python -m tests.simulation --seeds 1000 [--first N]` runs seeds; `--seed N` replays one with its trace."""

import argparse
import sys
import time
import traceback
from collections import Counter

from .simulate import simulate
from .universe import Violation


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="tests.simulation")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--keep-going", action="store_true", help="tell every failing seed, not only the first")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _replay(arguments.seed)
    return _many(range(arguments.first, arguments.first + arguments.seeds), arguments.keep_going)


def _replay(seed: int) -> int:
    trace: list[str] = []
    try:
        universe = simulate(seed, trace)
    except Exception as error:
        print("\n".join(trace))
        print(f"seed {seed}: {error if isinstance(error, Violation) else traceback.format_exc()}")
        return 1
    print("\n".join(trace))
    print(f"seed {seed}: good, trace {universe.trace_hash}")
    return 0


def _many(seeds: range, keep_going: bool) -> int:
    counts: Counter[str] = Counter()
    began, failed = time.perf_counter(), 0
    for done, seed in enumerate(seeds, 1):
        try:
            counts += simulate(seed).counts
        except Exception as error:
            failed += 1
            text = str(error) if isinstance(error, Violation) else traceback.format_exc()
            print(f"seed {seed} failed: {text}\nmake simulate SEED={seed}", flush=True)
            if not keep_going:
                return 1
        if done % 100 == 0:
            print(f"{done} seeds, {(time.perf_counter() - began) / done:.3f} s each", file=sys.stderr, flush=True)
    _report(len(seeds), counts, time.perf_counter() - began)
    return 1 if failed else 0


def _report(seeds: int, counts: Counter[str], seconds: float) -> None:
    print(f"{seeds} seeds in {seconds:.0f} s, {counts.pop('virtual seconds', 0) / 3600:.1f} virtual hours")
    for title in ("asked", "refused", "unanswered", "fault", "verdict", "execution"):
        found = {name: count for name, count in sorted(counts.items()) if name.startswith(title)}
        print(f"{title}: {sum(found.values())}")
        for name, count in found.items():
            print(f"  {count:8d} {name.removeprefix(title).removeprefix(': ')}")


if __name__ == "__main__":
    sys.exit(main())
