"""What a commit below the active layer makes of zeroes (QEMU's commit-zero-blocks)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from blkxact.block.types import Status
from tests.emulator import KIB, Emulator

CLUSTER = 64 * KIB


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = Emulator()
    yield emulator
    await emulator.layer.shutdown()


async def room(emulator: Emulator) -> int:
    """Return how many bytes the file of ``base`` takes."""
    await emulator.layer.find_node("base").flush()
    nodes = await emulator.execute("query-named-block-nodes", flat=True)
    (size,) = (node["image"]["actual-size"] for node in nodes if node["node-name"] == "base")
    return int(size)


@pytest.mark.parametrize(
    ("version", "discard", "kept"),
    [("10.0", "unmap", True), ("11.1", "unmap", False), ("11.1", "ignore", True)],
)
async def test_zeroes_take_no_room_in_the_base_in_the_newer_release(
    emulator: Emulator, version: str, discard: str, kept: bool
) -> None:
    emulator.emulate(version)
    below = None
    for name in ("base", "mid", "top"):
        await emulator.create(f"/{name}")
        await emulator.open(name, f"/{name}", backing=below, discard=discard)
        if name == "base":
            await emulator.qemu_io(name, "write -P 1 0 128k")
        elif name == "mid":
            await emulator.qemu_io(name, "write -z 0 64k")
        below = name
    before = await room(emulator)
    await emulator.execute(
        "block-commit", device="top", top_node="mid", base_node="base", job_id="c"
    )
    await emulator.jobs_over()
    base = emulator.layer.find_node("base")
    first, second = await base.layer_status((0, 2 * CLUSTER))
    assert first.status & Status.ZERO
    assert (await room(emulator) > before - CLUSTER) is kept
    assert second.status & Status.DATA
    assert bytes(await base.pread(0, 2 * CLUSTER)) == bytes(CLUSTER) + b"\1" * CLUSTER
