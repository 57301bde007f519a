"""Runs of a map, cut to ranges that are looked up together."""

from __future__ import annotations

from itertools import pairwise

from blkxact.drivers.qcow2.runs import Kind, Run, clipped, close_together


def by_byte(runs):
    """Return what each byte of the disk is, and where it lies."""
    found = {}
    for kind, offset, length, host in runs:
        for at in range(length):
            moves = host and kind is not Kind.COMPRESSED
            found[offset + at] = kind, host + at if moves else host
    return found


def random_runs(rng, size):
    runs, offset = [], 0
    while offset < size:
        length = rng.randrange(1, 9)
        kind = rng.choice(list(Kind))
        has_place = kind in (Kind.NORMAL, Kind.COMPRESSED)
        runs.append(Run(kind, offset, length, rng.randrange(1000, 2000) if has_place else 0))
        offset += length
    return runs


def random_ranges(rng, size):
    cuts = sorted(rng.sample(range(size), 2 * rng.randrange(1, 8)))
    return [(start, stop - start) for start, stop in zip(cuts[::2], cuts[1::2], strict=True)]


def test_clipped_runs_are_what_is_allocated_of_the_ranges(seeded):
    for _ in range(200):
        runs, ranges = random_runs(seeded, 100), random_ranges(seeded, 100)
        found = clipped(runs, ranges)
        whole = by_byte(runs)
        inside = [at for start, length in ranges for at in range(start, start + length)]
        wanted = {at: whole[at] for at in inside if whole[at][0] is not Kind.UNALLOCATED}
        assert by_byte(found) == wanted
        assert [run.offset for run in found] == sorted(run.offset for run in found)


def test_ranges_are_looked_up_together_if_little_is_between_them(seeded):
    for _ in range(100):
        ranges, gap = random_ranges(seeded, 200), seeded.randrange(30)
        groups = close_together(ranges, gap)
        assert [one for _, _, those in groups for one in those] == ranges
        for start, stop, those in groups:
            assert (start, stop) == (those[0][0], sum(those[-1]))
            gaps = [two[0] - sum(one) for one, two in pairwise(those)]
            dense = sum(gaps) < sum(length for _, length in those)
            assert all(one <= gap for one in gaps) or (dense and len(groups) == 1)
        for one, two in pairwise(groups):
            assert two[0] - one[1] > gap
