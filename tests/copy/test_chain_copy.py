"""ChainCopy: what the upper layers of a chain hold, written into a node below them."""

from __future__ import annotations

import errno

import pytest
from tests.memory_disks import KIB, MemoryDisks, failing

from blkxact.block.chain_copy import CHUNK, ChainCopy
from blkxact.block.types import Permission
from blkxact.storage.errors import CopyError

MIB = 1024 * KIB
BLOCK = 4 * KIB


class Chain:
    """top -> mid -> base; mid and top are to be copied into base."""

    def __init__(self, length: int = 4 * MIB, *, places: bool = True) -> None:
        self.disks = MemoryDisks()
        self.top = self.disks.disk("top", length, places=places)
        self.mid = self.disks.disk("mid", length, places=places)
        self.base = self.disks.disk("base", length, places=places)
        self.disks.backing("mid", "base")
        self.disks.backing("top", "mid")
        self.copy = ChainCopy(
            self.disks.edge("top"),
            self.disks.edge("base", Permission.WRITE),
            self.disks.graph.nodes["base"],
        )


@pytest.mark.parametrize("places", [True, False], ids=["by-file", "by-bytes"])
async def test_chain_copy_base_reads_as_top_did(seeded, places):
    chain = Chain(places=places)
    for disk in (chain.base, chain.mid, chain.top):
        for _ in range(20):
            size = seeded.choice([1, 2, 16, 200]) * BLOCK
            offset = seeded.randrange((4 * MIB - size) // BLOCK) * BLOCK
            if seeded.random() < 0.7:
                disk.fill(offset, seeded.randbytes(size))
            else:
                await disk.pwrite_zeroes(offset, size)
    before = await chain.top.pread(0, 4 * MIB)
    await chain.copy.run()
    assert bytes(chain.base.file.data) == before
    assert chain.copy.pieces.offset == 4 * MIB


async def test_chain_copy_leaves_what_only_base_holds_alone():
    chain = Chain()
    chain.base.fill(0, b"b" * 4 * MIB)
    chain.mid.fill(MIB, b"m" * BLOCK)
    await chain.copy.run()
    writes = [(o, n) for name, o, n in chain.base.log if name in {"copy", "write", "zero"}]
    assert writes == [(MIB, BLOCK)]


@pytest.mark.parametrize("places", [True, False], ids=["by-file", "by-bytes"])
async def test_chain_copy_limited_pieces_are_short_and_stop_where_data_end(places):
    chain = Chain(places=places)
    chain.top.fill(0, b"t" * (CHUNK + BLOCK))
    pieces = []
    while chain.copy.pieces.offset < chain.copy.pieces.length:
        piece = await chain.copy.pieces.next_piece(limited=True)
        pieces.append((piece[0].method.value != "skip", await chain.copy.copy(piece)))
    assert pieces == [(True, CHUNK), (True, BLOCK), (False, 4 * MIB - CHUNK - BLOCK)]


@pytest.mark.parametrize(
    ("disk", "operation", "reading"),
    [("base", "write", False), ("top", "read", True), ("mid", "status", True)],
)
async def test_chain_copy_failure_names_its_side_and_can_be_tried_again(disk, operation, reading):
    chain = Chain(places=False)
    chain.top.fill(0, b"t" * 2 * MIB)
    driver = getattr(chain, disk)
    driver.hook = failing(operation, 3 * MIB if disk == "mid" else CHUNK, errno.ENOSPC)
    with pytest.raises(CopyError) as caught:
        await chain.copy.run()
    assert (caught.value.reading, caught.value.errno) == (reading, errno.ENOSPC)
    assert chain.copy.pieces.offset == (0 if disk == "mid" else CHUNK)
    await chain.copy.run()
    assert bytes(chain.base.file.data) == b"t" * 2 * MIB + bytes(2 * MIB)
