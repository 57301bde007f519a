"""Maps through chains: who decides a range, and at what depth."""

from __future__ import annotations

from itertools import groupby

import pytest
from block_fakes import (
    DATA,
    ZERO,
    FilterDriver,
    FormatDriver,
    NosyFilter,
    ScriptedDriver,
    make_node,
)

from blkxact.block.graph import Graph
from blkxact.block.status import without
from blkxact.block.types import Extent, Status

K = 1 << 10
NONE = Status.NONE
FILE = object()


def layer(graph, name, pattern, backing=None):
    """Return a format node of 1 KiB letters: D data, Z zeroes, - what the backing decides."""
    node = make_node(graph, name, FormatDriver, size=len(pattern) * K, backing=backing)
    status = {"D": DATA, "Z": ZERO, "-": NONE}
    node.driver.extents = [Extent(i * K, K, status[c]) for i, c in enumerate(pattern)]
    return node


def drawn(extents):
    """Return the map as (KiB, letter, depth) runs."""
    letters = {DATA: "D", ZERO: "Z", NONE: "-", Status.ZERO: "z"}
    return [(e.length // K, letters[e.status], e.depth) for e in extents]


async def test_block_status_of_one_layer_is_its_own():
    top = layer(Graph(), "top", "DDZ")
    assert drawn(await top.block_status(0, 3 * K)) == [(2, "D", 0), (1, "Z", 0)]


async def test_block_status_asks_below_only_what_is_undecided():
    graph = Graph()
    base = layer(graph, "base", "DDZD--")
    mid = layer(graph, "mid", "-D---Z", base)
    top = layer(graph, "top", "D-----", mid)
    assert drawn(await top.block_status(0, 6 * K)) == [
        (1, "D", 0),
        (1, "D", 1),
        (1, "Z", 2),
        (1, "D", 2),
        (1, "z", 3),
        (1, "Z", 1),
    ]
    asked = [entry[1:] for entry in base.driver.log if entry[0] == "block_status"]
    assert asked == [(2 * K, 3 * K)]


async def test_block_status_above_a_base_leaves_its_runs_open():
    graph = Graph()
    base = layer(graph, "base", "DDDD")
    mid = layer(graph, "mid", "-D--", base)
    top = layer(graph, "top", "D---", mid)
    assert drawn(await top.block_status(0, 4 * K, base=base)) == [
        (1, "D", 0),
        (1, "D", 1),
        (2, "-", 2),
    ]
    assert drawn(await top.block_status(0, 4 * K, base=mid)) == [(1, "D", 0), (3, "-", 1)]
    assert drawn(await top.block_status(0, 4 * K, base=top)) == [(4, "-", 0)]


async def test_block_status_beyond_a_short_backing_file_is_zeroes_of_that_layer():
    graph = Graph()
    base = layer(graph, "base", "DD")
    top = layer(graph, "top", "----", base)
    assert drawn(await top.block_status(0, 4 * K)) == [(2, "D", 1), (2, "Z", 1)]


async def test_block_status_without_backing_reads_as_unallocated_zeroes():
    top = layer(Graph(), "top", "-D-")
    assert drawn(await top.block_status(0, 3 * K)) == [(1, "z", 1), (1, "D", 0), (1, "z", 1)]


async def test_block_status_is_cut_at_the_end_of_the_disk():
    top = layer(Graph(), "top", "DD")
    assert drawn(await top.block_status(K, 100 * K)) == [(1, "D", 0)]
    assert await top.block_status(2 * K, K) == []


async def test_block_status_through_a_filter_counts_it_as_a_layer():
    graph = Graph()
    base = layer(graph, "base", "DZ")
    top = make_node(graph, "filter", FilterDriver, size=2 * K, file=base)
    assert drawn(await top.block_status(0, 2 * K)) == [(1, "D", 1), (1, "Z", 1)]


@pytest.mark.parametrize(("kind", "visible"), [(FilterDriver, True), (NosyFilter, False)])
async def test_block_status_hides_the_file_below_a_filter_that_sees_reads(kind, visible):
    graph = Graph()
    file = make_node(graph, "file", ScriptedDriver, size=2 * K)
    file.driver.extents = [Extent(0, 2 * K, DATA, FILE, 0)]
    top = make_node(graph, "filter", kind, size=2 * K, file=file)
    (extent,) = await top.block_status(0, 2 * K)
    assert (extent.file is FILE) == visible
    (below,) = await file.block_status(0, 2 * K)
    assert below.file is FILE


async def test_block_status_merges_only_runs_that_continue_in_the_file():
    graph = Graph()
    node = make_node(graph, "file", FormatDriver, size=4 * K)
    node.driver.extents = [
        Extent(0, K, DATA, FILE, 0),
        Extent(K, K, DATA, FILE, K),
        Extent(2 * K, K, DATA, FILE, 7 * K),
        Extent(3 * K, K, DATA),
    ]
    runs = [(e.offset, e.length, e.file_offset) for e in await node.block_status(0, 4 * K)]
    assert runs == [(0, 2 * K, 0), (2 * K, K, 7 * K), (3 * K, K, 0)]


async def test_block_status_of_random_chains_equals_a_model(seeded):
    graph = Graph()
    for round_ in range(50):
        patterns = ["".join(seeded.choices("DZ-", k=seeded.randint(1, 12))) for _ in range(4)]
        node = None
        for depth, pattern in enumerate(patterns):
            node = layer(graph, f"n{round_}.{depth}", pattern, node)
        length = len(patterns[-1])
        got = []
        for extent in await node.block_status(0, length * K):
            got += [(extent.status, extent.depth)] * (extent.length // K)
        assert got == [model(patterns[::-1], position) for position in range(length)]


def test_ranges_without_extents_are_what_no_extent_covers(seeded):
    for _ in range(300):
        kinds = seeded.choices(
            "xXo ", k=40
        )  # of each byte: in an extent, in another, left, outside
        extents = [Extent(at, len(run), DATA) for at, run in runs_in(kinds, "xX")]
        ranges = merged([(at, len(run)) for at, run in runs_in(kinds, "xXo")])
        expected = merged([(at, len(run)) for at, run in runs_in(kinds, "o")])
        assert without(ranges, extents) == expected


def runs_in(kinds, chosen):
    """Return position and content of each run of one kind that is chosen."""
    found, at = [], 0
    for kind, group in groupby(kinds):
        run = list(group)
        if kind in chosen:
            found.append((at, run))
        at += len(run)
    return found


def merged(ranges):
    found = []
    for at, length in ranges:
        if found and sum(found[-1]) == at:
            found[-1] = found[-1][0], found[-1][1] + length
        else:
            found.append((at, length))
    return found


def model(patterns, position):
    for depth, pattern in enumerate(patterns):
        if position >= len(pattern) or pattern[position] == "Z":
            return ZERO, depth
        if pattern[position] == "D":
            return DATA, depth
    return Status.ZERO, len(patterns)
