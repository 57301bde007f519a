"""A node that copies what is read, while it is written to: it reads as if it copied nothing."""

from __future__ import annotations

import asyncio
import random

from tests.memory_disks import BLOCK, MemoryDisks

from blkxact.block.copy_on_read import enable

SIZE = 64 * BLOCK


async def work(disks: MemoryDisks, model: bytearray, rng: random.Random, area: range) -> None:
    """Read and write at random in an area that is this task's alone."""
    node = disks.graph.nodes["overlay"]
    for _ in range(40):
        start = rng.randrange(area.start, area.stop)
        length = rng.randrange(1, min(3 * BLOCK, area.stop - start) + 1)
        block = start // BLOCK * BLOCK
        match rng.randrange(3):
            case 0:
                data = rng.randbytes(BLOCK)
                await node.pwrite(block, data)
                model[block : block + BLOCK] = data
            case 1:
                await node.pwrite_zeroes(block, BLOCK)
                model[block : block + BLOCK] = bytes(BLOCK)
            case _:
                assert await node.pread(start, length) == model[start : start + length]


async def test_reads_and_writes_at_random_see_what_was_written(seeded: random.Random) -> None:
    disks = MemoryDisks()
    base, overlay = disks.disk("base", SIZE), disks.disk("overlay", SIZE)
    overlay.cluster_size = BLOCK
    disks.backing("overlay", "base")
    base.fill(0, seeded.randbytes(SIZE // 2))
    model = bytearray(base.file.data)
    enable(disks.graph.nodes["overlay"])
    guest = disks.guest("overlay")
    quarter = SIZE // 4
    areas = [range(at, at + quarter) for at in range(0, SIZE, quarter)]
    await asyncio.gather(*(work(disks, model, seeded, area) for area in areas))
    node = disks.graph.nodes["overlay"]
    assert await node.pread(0, SIZE) == model
    base.file.data[:] = seeded.randbytes(SIZE)  # all is the overlay's own now
    assert await node.pread(0, SIZE) == model
    assert overlay.file.data == model
    guest.close()
