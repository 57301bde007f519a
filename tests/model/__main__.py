"""Long runs by hand: ``python -m tests.model --seed 1 --steps 2000 [--runs 10] [-v]``."""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter

from .run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--runs", type=int, default=1, help="so many seeds from --seed on")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the log of a failure")
    words = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if words.seed is None else words.seed
    stats: Counter[str] = Counter()
    for number in range(seed, seed + words.runs):
        print(f"seed {number}, {words.steps} steps", flush=True)
        stats += run(number, words.steps, verbose=words.verbose).stats
    for name, count in sorted(stats.items()):
        print(f"{count:7} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
