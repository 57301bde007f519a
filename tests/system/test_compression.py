"""Compressed writes from above: backups, filters, and who takes them."""

from __future__ import annotations

import asyncio
import errno

import pytest

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission, Status, WriteFlags
from blkxact.drivers.qcow2.check import check_image
from blkxact.errors import QmpError
from blkxact.testing.faults import Fault

from .conftest import MIB, Emulator

CLUSTER = 65536


async def disks(emulator: Emulator, *names: str, **options: object) -> None:
    for name in names:
        await emulator.create_disk(name)
        await emulator.add_disk(name, **options)


async def fill(emulator: Emulator, node: str) -> None:
    for number in range(20):
        await emulator.qemu_io(node, f"write -P {number + 1} {number * 300}k 170k")


async def assert_same(emulator: Emulator, one: str, other: str) -> None:
    first, second = emulator.layer.find_node(one), emulator.layer.find_node(other)
    assert bytes(await first.pread(0, 8 * MIB)) == bytes(await second.pread(0, 8 * MIB))


async def stored(emulator: Emulator, node: str) -> set[Status]:
    """Return how the data of a node's image is stored; the image is sound."""
    driver = emulator.layer.find_node(node).driver
    await driver.flush()
    found = await check_image(driver.image)
    assert (found.leaks, found.corruptions, found.check_errors) == (0, 0, 0), found.messages
    extents = await driver.block_status(0, driver.length)
    return {extent.status & Status.COMPRESSED for extent in extents if extent.status & Status.DATA}


@pytest.mark.parametrize("target", ["target", "throttled"])
async def test_compressed_backup_under_guest_writes_holds_its_point_in_time(
    emulator: Emulator, target: str
) -> None:
    await disks(emulator, "disk", "target", "copy")
    await fill(emulator, "disk")
    limits = {"bps-total": 0}
    await emulator.execute("object-add", qom_type="throttle-group", id="g", limits=limits)
    await emulator.execute(
        "blockdev-add", driver="throttle", node_name="throttled", throttle_group="g", file="target"
    )
    jobs = [
        {"type": "blockdev-backup", "data": {"device": "disk", "sync": "full"} | members}
        for members in (
            {"job-id": "a", "target": target, "compress": True},
            {"job-id": "b", "target": "copy"},
        )
    ]
    await emulator.execute("transaction", actions=jobs)
    await emulator.qemu_io("disk", "write -P 99 100k 6M")
    await emulator.jobs_over()
    await assert_same(emulator, "target", "copy")
    assert await stored(emulator, "target") == {Status.COMPRESSED}
    assert await stored(emulator, "copy") == {Status.NONE}


async def test_compressed_backup_into_what_holds_data_fails_and_keeps_its_bitmap(
    emulator: Emulator,
) -> None:
    """As in QEMU: the second increment goes where the first one is."""
    await disks(emulator, "disk", "target")
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="b")
    for step in range(2):
        await emulator.qemu_io("disk", f"write -P {step + 5} {step * 100}k 2M")
        await emulator.execute(
            "blockdev-backup", device="disk", target="target", sync="incremental", bitmap="b",
            job_id="j", compress=True,
        )  # fmt: skip
        await emulator.jobs_over()
        completed = emulator.named("BLOCK_JOB_COMPLETED")[-1]
        assert completed.get("error") == (None, "Input/output error")[step]
    [bitmap] = emulator.layer.find_node("disk").bitmaps.values()
    assert bitmap.count() >= 2 << 20


async def test_drive_backup_compresses_into_a_new_image(emulator: Emulator) -> None:
    await disks(emulator, "disk")
    await fill(emulator, "disk")
    await emulator.execute(
        "drive-backup", device="disk", target="/t.qcow2", format="qcow2", sync="full",
        job_id="j", compress=True,
    )  # fmt: skip
    await emulator.jobs_over()
    await emulator.add_disk("t")
    await assert_same(emulator, "disk", "t")
    assert await stored(emulator, "t") == {Status.COMPRESSED}


async def test_compressed_backup_goes_on_after_a_full_target(emulator: Emulator) -> None:
    await disks(emulator, "disk", "target")
    await fill(emulator, "disk")
    stopped = asyncio.Event()
    end = emulator.layer.events.subscribe(
        lambda event: stopped.set() if event["event"] == "BLOCK_JOB_ERROR" else None
    )
    emulator.storage.faults.add(
        Fault("storage.pwrite", errno.ENOSPC, {"path": "/target.qcow2"}, skip=3)
    )
    await emulator.execute(
        "blockdev-backup", device="disk", target="target", sync="full", job_id="j",
        compress=True, on_target_error="stop",
    )  # fmt: skip
    await stopped.wait()
    end()
    await emulator.execute("job-resume", id="j")
    await emulator.jobs_over()
    assert "error" not in emulator.named("BLOCK_JOB_COMPLETED")[-1]
    await assert_same(emulator, "disk", "target")
    assert await stored(emulator, "target") == {Status.COMPRESSED}


async def test_compressed_backup_to_a_raw_target_is_refused(emulator: Emulator) -> None:
    await disks(emulator, "disk")
    await emulator.execute("blockdev-add", driver="null-co", node_name="n", size=8 * MIB)
    with pytest.raises(QmpError, match=r"Compression is not supported for this drive $"):
        await emulator.execute(
            "blockdev-backup", device="disk", target="n", sync="full", job_id="j", compress=True
        )
    assert not emulator.layer.jobs


async def test_guest_may_write_compressed_clusters(emulator: Emulator) -> None:
    await disks(emulator, "disk")
    assert "wrote" in await emulator.qemu_io("disk", "write -c -P 7 64k 128k")
    assert await stored(emulator, "disk") == {Status.COMPRESSED}
    assert (
        await emulator.qemu_io("disk", "write -c 512 64k") == "write failed: Invalid argument\r\n"
    )
    assert "failed" not in await emulator.qemu_io("disk", "read -P 7 64k 128k")


@pytest.mark.parametrize(
    "options", [{"driver": "raw", "file": "disk"}, {"driver": "blkdebug", "image": "disk"}]
)
async def test_compressed_write_through_a_filter_that_cannot_is_refused(
    emulator: Emulator, options: dict[str, str]
) -> None:
    await disks(emulator, "disk")
    await emulator.execute_wire("blockdev-add", {"node-name": "top", **options})
    refused = "write failed: Operation not supported\r\n"
    assert await emulator.qemu_io("top", "write -c 0 64k") == refused
    backend = BlockBackend(emulator.layer.graph, perm=Permission.WRITE)
    backend.insert(emulator.layer.find_node("top"))

    with pytest.raises(OSError, match="not supported"):
        await backend.pwrite(0, bytes(CLUSTER), WriteFlags.COMPRESSED)
    backend.close()


async def test_compress_filter_compresses_whole_clusters_of_every_write(emulator: Emulator) -> None:
    await disks(emulator, "disk")
    await emulator.execute("blockdev-add", driver="compress", node_name="top", file="disk")
    await emulator.qemu_io("top", "write -P 1 0 64k")
    await emulator.qemu_io("top", "write -P 3 100k 512")
    await emulator.qemu_io("top", "write -z 128k 64k")
    # A cluster that is there cannot be compressed anew.
    assert "write failed: Input/output error" in await emulator.qemu_io("top", "write -P 2 63k 2k")
    for node in ("top", "disk"):
        for pattern, place in ((1, "0 64k"), (0, "64k 36k"), (3, "100k 512")):
            assert "failed" not in await emulator.qemu_io(node, f"read -P {pattern} {place}")
        assert "failed" not in await emulator.qemu_io(node, "read -P 0 128k 64k")
    assert await stored(emulator, "disk") == {Status.COMPRESSED}


async def test_compress_filter_over_a_format_that_cannot_is_refused(emulator: Emulator) -> None:
    await emulator.execute("blockdev-add", driver="null-co", node_name="n")
    with pytest.raises(
        QmpError, match=r"^Compression is not supported for underlying format: null-co$"
    ):
        await emulator.execute("blockdev-add", driver="compress", node_name="top", file="n")
    assert [node.node_name for node in emulator.layer.graph.nodes.values()] == ["n"]
