"""Many seeds, on all cores."""

import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter

from .report import missing, report
from .simulate import simulate
from .universe import Violation

CHUNK = 10
CHUNKS_PER_PROCESS = 50  # then a new one: nothing that a seed leaves behind goes far
SEEDS_FOR_ALL = 1000  # among so many everything must have happened


def many(seeds: range, keep_going: bool) -> int:
    """Simulate these seeds, and tell what they met; the exit code."""
    counts: Counter[str] = Counter()
    began, failed = time.perf_counter(), 0
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=CHUNKS_PER_PROCESS) as pool:
        for done, (seed, failure, found) in enumerate(pool.imap_unordered(_one, seeds, CHUNK), 1):
            counts += found
            if failure:
                failed += 1
                print(f"seed {seed} failed: {failure}\nmake simulate SEED={seed}", flush=True)
                if not keep_going:
                    return 1
            if done % 500 == 0:
                rate = (time.perf_counter() - began) / done
                print(f"{done} seeds, {rate:.3f} s each", file=sys.stderr, flush=True)
    print(report(len(seeds), counts, time.perf_counter() - began))
    never = missing(counts)
    print(f"never happened: {', '.join(never) or 'nothing'}")
    return 1 if failed or (never and len(seeds) >= SEEDS_FOR_ALL) else 0


def _one(seed: int) -> tuple[int, str, Counter[str]]:
    try:
        return seed, "", simulate(seed).counts
    except Exception as error:
        return seed, str(error) if isinstance(error, Violation) else traceback.format_exc(), Counter()
