"""From extents to segments of whole clusters."""

from __future__ import annotations

import random

import pytest

from blkxact.block.copy_plan import Method, merge_alike, parts_of_runs, plan
from blkxact.block.types import Extent, Status

KIB = 1024
CLUSTER = 64 * KIB
DATA = Status.DATA | Status.ALLOCATED
ZERO = Status.ZERO | Status.ALLOCATED
FILE = object()


def shown(segments):
    return [(s.offset // KIB, s.length // KIB, s.method.value) for s in segments]


def extents(*runs):
    offset, found = 0, []
    for length, status, *place in runs:
        file = FILE if place else None
        found.append(Extent(offset, length * KIB, status, file, place[0] * KIB if place else 0))
        offset += length * KIB
    return found


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([(128, DATA, 0)], [(0, 128, "copy")]),
        ([(64, DATA)], [(0, 64, "read")]),
        ([(128, ZERO)], [(0, 128, "zero")]),
        ([(128, Status.NONE)], [(0, 128, "read")]),
        ([(64, DATA, 0), (64, ZERO)], [(0, 64, "copy"), (64, 64, "zero")]),
        ([(100, DATA, 0), (92, ZERO)], [(0, 64, "copy"), (64, 64, "read"), (128, 64, "zero")]),
        ([(4, DATA, 0), (60, ZERO)], [(0, 64, "read")]),
        ([(32, DATA, 0), (32, DATA, 100), (64, ZERO)], [(0, 64, "read"), (64, 64, "zero")]),
        ([(64, DATA, 0), (64, DATA, 64)], [(0, 128, "copy")]),
        ([(64, DATA, 0), (64, DATA, 128)], [(0, 64, "copy"), (64, 64, "copy")]),
        ([(64, ZERO), (64, Status.ZERO)], [(0, 128, "zero")]),
    ],
)
def test_plan_extents_become_segments(runs, expected):
    found = extents(*runs)
    length = sum(e.length for e in found)
    assert shown(merge_alike(plan(found, CLUSTER, length))) == expected


def test_plan_end_of_disk_cuts_last_cluster():
    found = extents((100, DATA, 8))
    segments = plan(found, CLUSTER, 100 * KIB)
    assert shown(segments) == [(0, 100, "copy")]


def test_plan_is_cut_where_extents_end_and_around_shared_clusters():
    found = extents((100, DATA, 0), (60, ZERO), (96, DATA), (64, ZERO), (64, Status.ZERO))
    segments = plan(found, CLUSTER, 384 * KIB)
    assert shown(segments) == [
        (0, 64, "copy"),
        (64, 64, "read"),
        (128, 64, "read"),
        (192, 64, "read"),
        (256, 64, "zero"),
        (320, 64, "zero"),
    ]
    merged = [(0, 64, "copy"), (64, 192, "read"), (256, 128, "zero")]
    assert shown(merge_alike(segments)) == merged
    assert shown(parts_of_runs([(0, 384 * KIB)], segments)) == merged
    runs = [(64 * KIB, 64 * KIB), (192 * KIB, 128 * KIB)]
    assert shown(parts_of_runs(runs, segments)) == [
        (64, 64, "read"),
        (192, 64, "read"),
        (256, 64, "zero"),
    ]


def test_plan_copy_part_keeps_file_offset():
    (segment,) = plan(extents((128, DATA, 1000)), CLUSTER, 128 * KIB)
    part = segment.part(64 * KIB, 100 * KIB)
    assert (part.file_offset, part.length) == (1064 * KIB, 36 * KIB)


def test_plan_own_layer_only_skips_unallocated_but_not_half_allocated():
    found = extents((64, Status.NONE), (32, DATA, 0), (96, Status.ZERO), (64, ZERO))
    length = sum(e.length for e in found)
    assert shown(plan(found, CLUSTER, length, own_layer_only=True)) == [
        (0, 64, "skip"),
        (64, 64, "read"),
        (128, 64, "skip"),
        (192, 64, "zero"),
    ]


def test_plan_random_extents_cover_in_order_and_never_mix(seeded: random.Random):
    for _ in range(300):
        runs = [
            (seeded.choice([1, 4, 60, 64, 68, 128, 200]), seeded.choice([DATA, ZERO, Status.NONE]))
            for _ in range(seeded.randint(1, 12))
        ]
        runs = [(n, s, 7) if s == DATA and seeded.random() < 0.7 else (n, s) for n, s in runs]
        found = extents(*runs)
        length = sum(e.length for e in found)
        segments = plan(found, CLUSTER, length)
        cursor = 0
        for segment in segments:
            assert segment.offset == cursor
            assert segment.offset % CLUSTER == 0
            cursor = segment.end
            for extent in found:
                inside = (
                    extent.offset < segment.end and segment.offset < extent.offset + extent.length
                )
                if inside and segment.method is Method.ZERO:
                    assert extent.status & Status.ZERO
                if inside and segment.method is Method.COPY:
                    assert extent.file is FILE
        assert cursor == length
