"""The filter copy-on-read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from blkxact.block.types import Status
from blkxact.errors import QmpError
from tests.emulator import KIB, MIB, Emulator

SIZE = 2 * MIB
CLUSTER = 64 * KIB


@pytest.fixture
async def emulator(seeded: random.Random) -> AsyncIterator[Emulator]:
    emulator = Emulator()
    below = None
    for name in ("base", "mid", "top"):
        await emulator.create_disk(name, SIZE)
        await emulator.add_disk(name, backing=below)
        below = name
        if name != "top":
            start = 0 if name == "base" else MIB
            await emulator.layer.find_node(name).pwrite(start, seeded.randbytes(MIB))
    yield emulator
    await emulator.layer.shutdown()


async def add_filter(emulator: Emulator, **options: str) -> None:
    await emulator.execute(
        "blockdev-add", driver="copy-on-read", node_name="cor", file="top", **options
    )


async def own(emulator: Emulator) -> list[tuple[int, int]]:
    """Return the runs that the image at the top holds itself."""
    runs: list[tuple[int, int]] = []
    for extent in await emulator.layer.find_node("top").block_status(0, SIZE):
        if extent.depth or not extent.status & Status.ALLOCATED:
            continue
        if runs and sum(runs[-1]) == extent.offset:
            runs[-1] = runs[-1][0], runs[-1][1] + extent.length
        else:
            runs.append((extent.offset, extent.length))
    return runs


async def test_read_copies_whole_clusters_and_marks_no_bitmap(emulator: Emulator) -> None:
    await add_filter(emulator)
    await emulator.execute("block-dirty-bitmap-add", node="top", name="b")
    before = bytes(await emulator.layer.find_node("top").pread(0, SIZE))
    assert (
        await emulator.layer.find_node("cor").pread(CLUSTER + 5, 10)
        == (before[CLUSTER + 5 : CLUSTER + 15])
    )
    assert await own(emulator) == [(CLUSTER, CLUSTER)]
    assert emulator.bitmaps("top")["b"]["count"] == 0
    assert bytes(await emulator.layer.find_node("cor").pread(0, SIZE)) == before
    assert await own(emulator) == [(0, SIZE)]


async def test_bottom_limits_what_is_copied_and_freezes_the_chain(emulator: Emulator) -> None:
    await add_filter(emulator, bottom="mid")
    await emulator.layer.find_node("cor").pread(0, SIZE)
    assert await own(emulator) == [(MIB, MIB)]
    with pytest.raises(QmpError, match="Cannot change frozen 'backing' link from 'top' to 'mid'"):
        emulator.layer.graph.set_backing(emulator.layer.find_node("top"), None)
    await emulator.execute("blockdev-del", node_name="cor")
    emulator.layer.graph.set_backing(emulator.layer.find_node("top"), None)


@pytest.mark.parametrize(
    ("bottom", "text"),
    [("nope", "Bottom node 'nope' not found"), ("filter", "Bottom node 'filter' is a filter")],
)
async def test_bottom_that_cannot_be_is_refused(emulator: Emulator, bottom: str, text: str) -> None:
    await emulator.execute("blockdev-add", driver="compress", node_name="filter", file="base")
    with pytest.raises(QmpError, match=f"^{text}$"):
        await add_filter(emulator, bottom=bottom)
    assert "cor" not in emulator.layer.graph.nodes


async def test_writes_of_the_guest_win_over_copies_of_old_data(
    emulator: Emulator, seeded: random.Random
) -> None:
    await add_filter(emulator)
    guest = emulator.plug("cor")
    model = bytearray(await emulator.layer.find_node("top").pread(0, SIZE))

    async def write(offset: int, data: bytes) -> None:
        await guest.pwrite(offset, data)

    for _ in range(40):
        offset = seeded.randrange(SIZE // 512 - 8) * 512
        data = seeded.randbytes(seeded.randrange(1, 9) * 512)
        model[offset : offset + len(data)] = data
        start = seeded.randrange(SIZE // CLUSTER - 2) * CLUSTER
        await asyncio.gather(guest.pread(start, 2 * CLUSTER), write(offset, data))
    assert bytes(await guest.pread(0, SIZE)) == bytes(model)
    assert bytes(await emulator.layer.find_node("top").pread(0, SIZE)) == bytes(model)


async def test_copies_go_through_a_raw_node_that_nobody_writes(emulator: Emulator) -> None:
    await emulator.create("/low.qcow2")
    await emulator.open("low", "/low.qcow2")
    await emulator.qemu_io("low", "write -P 1 0 256k")
    await emulator.execute("blockdev-del", node_name="low")
    await emulator.create("/up.qcow2")
    low = {"driver": "qcow2", "file": {"driver": "file", "filename": "/low.qcow2"}}
    up = {"driver": "qcow2", "file": {"driver": "file", "filename": "/up.qcow2"}, "backing": low}
    raw = {"driver": "raw", "file": up, "node-name": "raw"}
    await emulator.execute("blockdev-add", driver="copy-on-read", node_name="cor", file=raw)
    assert "Pattern" not in await emulator.qemu_io("cor", "read -P 1 0 256k")
    await emulator.execute("blockdev-del", node_name="cor")
    await emulator.open("up", "/up.qcow2", backing=None)
    assert "Pattern" not in await emulator.qemu_io("up", "read -P 1 0 256k")


async def test_filter_with_a_bottom_is_open_when_the_emulator_ends() -> None:
    """The iotest 310."""
    emulator = Emulator()
    await emulator.create_disk("below")
    await emulator.add_disk("below")
    await emulator.create_disk("top")
    await emulator.add_disk("top", backing="below")
    await emulator.execute(
        "blockdev-add", driver="copy-on-read", node_name="cor", file="top", bottom="below"
    )
    await emulator.layer.shutdown()
    assert emulator.layer.graph.nodes == {}
