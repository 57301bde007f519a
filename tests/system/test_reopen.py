"""``blockdev-reopen`` takes effect: requests afterwards follow the new options, or the old ones."""

from __future__ import annotations

from typing import Any

import pytest

from blkxact.errors import QmpError

from .conftest import MIB, Emulator


def options(name: str, **members: Any) -> dict[str, Any]:
    file = {"driver": "file", "filename": f"/{name}.qcow2"}
    wire = {key.replace("_", "-"): value for key, value in members.items()}
    return {"driver": "qcow2", "node-name": name, "file": file} | wire


async def reopen(emulator: Emulator, *wanted: dict[str, Any]) -> None:
    await emulator.execute("blockdev-reopen", options=list(wanted))


@pytest.fixture
async def disks(emulator: Emulator) -> Emulator:
    for name in ("a", "b"):
        await emulator.create_disk(name, MIB)
        await emulator.add_disk(name)
    return emulator


async def allocated(emulator: Emulator, name: str) -> int:
    extents = await emulator.layer.find_node(name).block_status(0, MIB)
    return sum(extent.length for extent in extents if extent.file is not None)


async def test_detect_zeroes_turns_writes_of_zeroes_into_holes(disks: Emulator) -> None:
    await disks.qemu_io("a", "write -P 0 0 64k")
    assert await allocated(disks, "a") == 64 << 10
    await reopen(disks, options("a", detect_zeroes="unmap", discard="unmap"))
    await disks.qemu_io("a", "write -P 0 0 128k")
    assert await allocated(disks, "a") == 0
    await reopen(disks, options("a"))
    await disks.qemu_io("a", "write -P 0 0 64k")
    assert await allocated(disks, "a") == 64 << 10


async def test_discard_follows_a_reopen(disks: Emulator) -> None:
    await disks.qemu_io("a", "write -P 1 0 64k")
    await disks.qemu_io("a", "discard 0 64k")
    assert await allocated(disks, "a") == 64 << 10
    await reopen(disks, options("a", discard="unmap"))
    await disks.qemu_io("a", "discard 0 64k")
    assert await allocated(disks, "a") == 0


async def test_no_flush_follows_a_reopen_down_to_the_file(disks: Emulator) -> None:
    file = disks.layer.find_node("a").children["file"].node
    flushed = []
    flush = file.driver.file.flush  # type: ignore[attr-defined]

    async def noted() -> None:
        flushed.append(1)
        await flush()

    file.driver.file.flush = noted  # type: ignore[attr-defined]
    await reopen(disks, options("a", cache={"no-flush": True}))
    await disks.qemu_io("a", "write 0 64k")
    flushed.clear()
    await disks.layer.find_node("a").flush()
    assert not flushed
    await reopen(disks, options("a"))
    await disks.qemu_io("a", "write 0 64k")
    await disks.layer.find_node("a").flush()
    assert flushed


async def test_raw_with_another_offset_shows_another_piece(disks: Emulator) -> None:
    raw = {"driver": "raw", "node-name": "r", "file": "a"}
    await disks.execute_wire("blockdev-add", raw)
    await disks.execute("block-dirty-bitmap-add", node="r", name="m")
    await disks.qemu_io("a", "write -P 7 64k 64k")
    await reopen(disks, {**raw, "offset": 64 << 10})
    node = disks.layer.find_node("r")
    assert (bytes(await node.pread(0, 1)), node.length) == (b"\x07", MIB - (64 << 10))
    assert [extent.offset for extent in await node.block_status(0, MIB)][:2] == [0, 64 << 10]
    assert node.bitmaps["m"].size == node.length
    await reopen(disks, raw)
    assert (bytes(await node.pread(0, 1)), node.length) == (b"\0", MIB)


async def test_refusal_for_one_node_leaves_all_as_they_were(disks: Emulator) -> None:
    await disks.execute("block-dirty-bitmap-add", node="a", name="m", persistent=True)
    with pytest.raises(QmpError, match="Cannot change the option 'locking'"):
        await reopen(
            disks,
            options("a", read_only=True, detect_zeroes="on"),
            options("b", file={"driver": "file", "filename": "/b.qcow2", "locking": "off"}),
        )
    node = disks.layer.find_node("a")
    assert (node.read_only, node.detect_zeroes) == (False, "off")
    await disks.qemu_io("a", "write -P 1 0 64k")
    assert disks.bitmaps("a")["m"]["count"] == 64 << 10


async def test_writer_in_the_way_leaves_bitmaps_in_use_and_writable(disks: Emulator) -> None:
    await disks.execute("block-dirty-bitmap-add", node="a", name="m", persistent=True)
    await disks.execute("device_add", driver="scsi-hd", id="sda", drive="b")
    with pytest.raises(QmpError, match="Read-only block node 'b' cannot support read-write users"):
        await reopen(disks, options("a", read_only=True), options("b", read_only=True))
    nodes = [disks.layer.find_node(name) for name in ("a", "b")]
    nodes += [node.children["file"].node for node in nodes]
    assert not any(node.read_only for node in nodes)
    await disks.qemu_io("a", "write -P 1 0 64k")
    assert disks.bitmaps("a")["m"]["count"] == 64 << 10
    await disks.layer.shutdown()
    again = Emulator(disks.storage)
    await again.add_disk("a")
    assert again.bitmaps("a")["m"]["count"] == 64 << 10
    await again.layer.shutdown()
