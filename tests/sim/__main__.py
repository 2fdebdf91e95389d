"""``python -m tests.sim --seeds 20000``: run many seeds, say how it goes, end with one JSON line.

A failing seed is replayed with ``python -m tests.sim --seed N --trace``.
"""

import argparse
import gc
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.sim.scenario import run

BLOCK = 100


def block(start: int) -> list[tuple[int, list[str]]]:
    """Run one block of seeds and return those that failed."""
    gc.disable()  # worlds are cycles; one collection a block is cheaper than many inside
    failed = [(seed, violations) for seed in range(start, start + BLOCK) if (violations := run(seed))]
    gc.collect()
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds, from --start")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, help="replay one seed")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happened")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed, trace=options.trace)
    began = time.perf_counter()
    starts = range(options.start, options.start + options.seeds, BLOCK)
    failed: list[tuple[int, list[str]]] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for number, found in enumerate(pool.map(block, starts), 1):
            failed += found
            for seed, violations in found:
                print(f"seed {seed}: {violations[0]}   replay: python -m tests.sim --seed {seed} --trace")
            if number % 10 == 0 or number == len(starts):
                rate = number * BLOCK / (time.perf_counter() - began)
                print(f"{number * BLOCK} seeds, {len(failed)} failed, {rate:.0f} seeds/s", file=sys.stderr)
    seconds = time.perf_counter() - began
    ran = len(starts) * BLOCK
    print(json.dumps({"seeds": ran, "failed": [seed for seed, _ in failed], "seconds": round(seconds, 1)}))
    return 1 if failed else 0


def replay(seed: int, *, trace: bool) -> int:
    """Run one seed and print its violations, after its story when asked."""
    story: list[str] | None = [] if trace else None
    violations = run(seed, trace=story)
    for line in story or []:
        print(line)
    for violation in violations:
        print("VIOLATION", violation)
    print(f"seed {seed}: {'failed' if violations else 'clean'}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
