"""Zeroes in what a plan calls data are found, and nothing else of the plan changes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from blkxact.block.copy_plan import Method, Segment
from blkxact.block.copy_sift import sift
from blkxact.testing.memory_file import MemoryStorage

UNIT = 16


@pytest.fixture
async def files(seeded):
    """Two files in which half of the units are zeroes."""
    storage = MemoryStorage(seeded)
    made = []
    for name in "ab":
        units = [seeded.choice([bytes(UNIT), seeded.randbytes(UNIT)]) for _ in range(64)]
        made.append(await storage.create(name))
        await made[-1].pwrite(0, b"".join(units))
    return made


async def read(segments):
    """Return what a target has after a copy of the segments, and which are neither."""
    parts = []
    for segment in segments:
        if segment.method is Method.COPY:
            parts.append(bytes(await segment.file.pread(segment.file_offset, segment.length)))
        else:
            fill = b"\0" if segment.method is Method.ZERO else segment.method.value[:1].encode()
            parts.append(fill * segment.length)
    return b"".join(parts)


async def test_sifted_segments_copy_the_same(files, seeded):
    for _ in range(50):
        offset = start = seeded.randrange(100)
        segments = []
        for _ in range(seeded.randrange(1, 12)):
            length = seeded.randrange(1, 100)
            method = seeded.choice([Method.COPY, Method.COPY, Method.READ, Method.ZERO])
            place = (seeded.choice(files), seeded.randrange(400)) if method is Method.COPY else ()
            segments.append(Segment(offset, length, method, *place))
            offset += length
        sifted = await sift(segments, UNIT)
        assert await read(sifted) == await read(segments)
        assert sifted[0].offset == start
        assert all(one.end == two.offset for one, two in pairwise(sifted))
        for part in sifted:
            if part.method is Method.COPY:  # every whole unit in it has data
                first = -(-part.offset // UNIT) * UNIT
                data = await read([part])
                for at in range(first, part.end - UNIT + 1, UNIT):
                    assert any(data[at - part.offset :][:UNIT])


async def test_units_are_counted_from_the_start_of_the_disk():
    storage = MemoryStorage()
    file = await storage.create("a")
    await file.pwrite(0, b"x" + bytes(30) + b"x")
    found = await sift([Segment(8, 32, Method.COPY, file, 0)], UNIT)
    assert [(part.offset, part.length, part.method) for part in found] == [
        (8, 8, Method.COPY),
        (16, 16, Method.ZERO),
        (32, 8, Method.COPY),
    ]
