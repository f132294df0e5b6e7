"""`python -m tests.simulation --seeds 1000 [--first N]` runs seeds; `--seed N` replays one with its trace."""

import argparse
import sys
import traceback

from .many import many
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
    return many(range(arguments.first, arguments.first + arguments.seeds), arguments.keep_going)


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


if __name__ == "__main__":
    sys.exit(main())
