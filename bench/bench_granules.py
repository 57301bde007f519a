"""What the bits of a dirty bitmap cost: a table of times and sizes, one row an operation.

Processor time is shown, the best of several rounds: ``python bench/bench_granules.py [--size TIB]
[--granularity KIB]``. It fails nothing; the figures are discussed in
``docs/adr/0004-bitmap-representation.md``.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from blkxact.bitmap import DirtyBitmap
from blkxact.nbd.protocol import Mode
from blkxact.nbd.replies import Replies

SEED = 4
ROUNDS = 5
DIRTY_SHARE = 100
"""One granule of so many is dirty."""

DATA_PIECE = 512 << 10
NBD_RANGE = 2 << 30

Runs = list[tuple[int, int]]


def scattered(size: int, granularity: int, run: int) -> Runs:
    """Return runs of ``run`` granules, 1 % of the disk together, in random order."""
    source = random.Random(SEED)
    span = granularity * run
    places = source.sample(range(size // span), size // span // DIRTY_SHARE)
    return [(place * span, span) for place in places]


def shapes(size: int, granularity: int) -> Iterator[tuple[str, Runs]]:
    """Yield the patterns of dirt that are measured."""
    yield "1 % random", scattered(size, granularity, 1)
    yield "1 % in runs of 64", scattered(size, granularity, 64)
    yield "all dirty", [(0, size)]


def best(work: Callable[[], Any]) -> float:
    """Return the shortest processor time of several rounds, in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times) * 1000


def measure(size: int, granularity: int, runs: Runs) -> dict[str, float]:
    """Return milliseconds for each operation."""

    def marked(some: Runs, grain: int = granularity) -> DirtyBitmap:
        bitmap = DirtyBitmap(size, grain)
        for offset, length in some:
            bitmap.mark(offset, length)
        return bitmap

    def record() -> None:
        for place in places:
            bitmap.record_write(place, granularity)

    def load() -> None:
        loaded = DirtyBitmap(size, granularity)
        for index, data in stored:
            loaded.deserialize(index * DATA_PIECE, data)
        loaded.compact()

    def map_all() -> int:
        """Make the replies to an NBD client that asks for the map of the disk."""
        ranges = range(0, size, NBD_RANGE)
        pack = Replies(Mode.STRUCTURED).pack_turns
        return sum(len(pack(bitmap.turns(at, at + NBD_RANGE, 1 << 20), 1)) for at in ranges)

    bitmap, other = marked(runs), marked(runs[::2])
    stored = list(bitmap.serialized_pieces(DATA_PIECE))
    places = random.Random(SEED).sample(range(0, size, granularity), 10_000)
    coarse, target = DirtyBitmap(size, granularity * 16), bitmap.copy()
    return {
        "bulk mark": best(lambda: marked(runs)),
        "count": best(bitmap.count),
        "copy": best(bitmap.copy),
        "merge": best(lambda: target.absorb(other)),
        "merge to 16 x granularity": best(lambda: coarse.absorb(bitmap)),
        "first run": best(lambda: next(bitmap.runs(), None)),
        "all runs": best(lambda: sum(1 for _ in bitmap.runs())),
        "NBD map of the disk": best(map_all),
        "data out, 64 KiB pieces": best(lambda: sum(1 for _ in bitmap.serialized_pieces(65536))),
        "data in, 512 KiB pieces": best(load),
        "sha256": best(bitmap.sha256),
        "10,000 writes of a granule": best(record),
        "KiB of memory": len(bitmap.bits.serialize()) / 1024,
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=16, help="TiB of disk")
    parser.add_argument("--granularity", type=int, default=64, help="KiB of disk for each bit")
    options = parser.parse_args()
    size, granularity = options.size << 40, options.granularity << 10
    columns = {name: measure(size, granularity, runs) for name, runs in shapes(size, granularity)}
    print(
        f"{options.size} TiB at {options.granularity} KiB; ms of processor time, best of {ROUNDS}"
    )
    print(f"{'':28}" + "".join(f"{name:>20}" for name in columns))
    for row in next(iter(columns.values())):
        print(f"{row:28}" + "".join(f"{column[row]:20.3f}" for column in columns.values()))


if __name__ == "__main__":
    main()
