"""qcow2 images with an external data file in a whole emulator."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from blkxact.block.types import Permission
from blkxact.errors import QmpError
from blkxact.testing.faults import Fault

from .conftest import MIB, Emulator

DATA = {"driver": "file", "filename": "/d.raw"}


async def create(emulator: Emulator, name: str = "disk", **options: Any) -> None:
    """Make ``/name.qcow2`` with its data in ``/d.raw``."""
    for filename in (f"/{name}.qcow2", "/d.raw"):
        if not emulator.storage.exists(filename):
            await (await emulator.storage.create(filename)).close()
    members = {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": f"/{name}.qcow2"},
        "data-file": DATA,
        "size": 8 * MIB,
        **options,
    }
    await emulator.execute("blockdev-create", job_id="c", options=members)
    await emulator.jobs_over()
    (job,) = await emulator.execute("query-jobs")
    await emulator.execute("job-dismiss", id="c")
    assert "error" not in job, job


def described(emulator: Emulator, name: str) -> dict[str, Any]:
    specific = emulator.layer.find_node(name).driver.image_specific()
    assert specific is not None
    return specific["data"]


@pytest.mark.parametrize("explicit", [False, True])
async def test_data_file_is_opened_by_option_or_by_the_name_in_the_header(
    emulator: Emulator, explicit: bool
) -> None:
    await create(emulator)
    options = {"data_file": {**DATA, "node-name": "d"}} if explicit else {}
    await emulator.add_disk("disk", **options)
    data_file = emulator.layer.find_node("disk").children["data-file"].node
    assert data_file.filename == "/d.raw"
    assert (data_file.node_name == "d") is explicit
    assert described(emulator, "disk")["data-file"] == "/d.raw"
    assert described(emulator, "disk")["data-file-raw"] is False
    await emulator.qemu_io("disk", "write -P 7 1M 64k")
    assert bytes(await data_file.pread(MIB, 65536)) == b"\7" * 65536
    nodes = await emulator.execute("query-named-block-nodes")
    assert [n["file"] for n in nodes if n["node-name"] == "disk"] == ["/disk.qcow2"]
    assert any(n["file"] == "/d.raw" and n["drv"] == "file" for n in nodes)
    await emulator.execute("blockdev-del", node_name="disk")
    assert not emulator.storage.open_files


async def test_data_file_named_like_json_is_the_file_of_that_name(emulator: Emulator) -> None:
    """An image from somebody else must not choose drivers and files (CVE-2024-4467)."""
    file = await emulator.storage.create("/d.raw")
    await file.truncate(9 * MIB)
    await file.close()
    await emulator.execute("blockdev-add", driver="raw", node_name="r", file=DATA, offset=MIB)
    await create(emulator, **{"data-file": "r"})
    await emulator.execute("blockdev-del", node_name="r")
    with pytest.raises(QmpError, match=r"^Could not open 'json:.*': No such file or directory$"):
        await emulator.add_disk("disk")
    await emulator.add_disk("disk", data_file=DATA)
    assert described(emulator, "disk")["data-file"].startswith("json:")


async def test_raw_data_file_is_created_with_all_tables(emulator: Emulator) -> None:
    await create(emulator, **{"data-file-raw": True})
    await emulator.add_disk("disk")
    assert described(emulator, "disk")["data-file-raw"] is True
    extents = await emulator.layer.find_node("disk").driver.block_status(0, 8 * MIB)
    assert extents[0].status  # nothing is unallocated
    assert sum(extent.length for extent in extents if extent.status) == 8 * MIB


async def test_missing_data_file_is_told_by_its_name_and_nothing_stays_open(
    emulator: Emulator,
) -> None:
    await create(emulator)
    emulator.storage.unlink("/d.raw")
    with pytest.raises(QmpError, match=r"^Could not open '/d.raw': No such file or directory$"):
        await emulator.add_disk("disk")
    assert not emulator.storage.open_files
    assert not emulator.layer.graph.nodes


async def test_data_file_for_an_image_without_one_is_refused(emulator: Emulator) -> None:
    await emulator.create_disk("disk")
    await (await emulator.storage.create("/d.raw")).close()
    with pytest.raises(
        QmpError, match=r"^'data-file' can only be set for images with an external data file$"
    ):
        await emulator.add_disk("disk", data_file=DATA)
    assert not emulator.storage.open_files


async def test_data_file_is_locked_as_its_image_is(emulator: Emulator) -> None:
    await create(emulator)
    await emulator.add_disk("disk")
    device = emulator.layer.find_node("disk").children["data-file"]
    assert not device.shared & Permission.RESIZE
    other = Emulator(emulator.storage)
    with pytest.raises(QmpError, match="lock"):
        await other.execute("blockdev-add", driver="qcow2", node_name="o", file={
            "driver": "file", "filename": "/disk.qcow2"})  # fmt: skip


async def test_backup_of_a_data_file_copies_file_to_file(emulator: Emulator) -> None:
    await create(emulator)
    await emulator.create_disk("target")
    await emulator.add_disk("disk")
    await emulator.add_disk("target")
    await emulator.qemu_io("disk", "write -P 7 1M 2M")
    emulator.storage.requests.clear()
    await emulator.execute(
        "blockdev-backup", device="disk", target="target", sync="full", job_id="j"
    )
    await emulator.jobs_over()
    source, target = emulator.layer.find_node("disk"), emulator.layer.find_node("target")
    assert bytes(await source.pread(0, 8 * MIB)) == bytes(await target.pread(0, 8 * MIB))
    extents = await source.block_status(MIB, 2 * MIB)
    assert {extent.file.path for extent in extents if extent.file} == {"/d.raw"}


@pytest.mark.parametrize("persistent", [False, True])
async def test_incremental_backup_into_a_data_file(emulator: Emulator, persistent: bool) -> None:
    await emulator.create_disk("disk")
    await emulator.add_disk("disk")
    await create(emulator, "target", **{"data-file-raw": True})
    await emulator.add_disk("target")
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=persistent)
    for step in range(3):
        await emulator.qemu_io("disk", f"write -P {step + 1} {step * 500}k 1M")
        await emulator.execute(
            "blockdev-backup", device="disk", target="target", sync="incremental", bitmap="b",
            job_id="j",
        )  # fmt: skip
        await emulator.jobs_over()
    disk = bytes(await emulator.layer.find_node("disk").pread(0, 8 * MIB))
    file = await emulator.storage.open("/d.raw", read_only=True)
    assert bytes(await file.pread(0, 8 * MIB)) == disk
    await file.close()


async def test_persistent_bitmap_is_kept_beside_a_data_file(emulator: Emulator) -> None:
    await create(emulator)
    await emulator.add_disk("disk")
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
    await emulator.qemu_io("disk", "write 1M 64k")
    await emulator.execute("blockdev-del", node_name="disk")
    await emulator.add_disk("disk")
    assert emulator.bitmaps("disk")["b"]["count"] == 65536


async def test_block_resize_takes_the_data_file_along(emulator: Emulator) -> None:
    await create(emulator)
    await emulator.add_disk("disk")
    await emulator.execute("block_resize", node_name="disk", size=9 * MIB)
    data_file = emulator.layer.find_node("disk").children["data-file"]
    assert data_file.length == 9 * MIB


async def test_compressed_backup_into_a_data_file_fails(emulator: Emulator) -> None:
    await emulator.create_disk("disk")
    await emulator.add_disk("disk")
    await emulator.qemu_io("disk", "write 0 64k")
    await create(emulator, "target")
    await emulator.add_disk("target")
    await emulator.execute(
        "blockdev-backup", device="disk", target="target", sync="full", job_id="j", compress=True
    )
    await emulator.jobs_over()
    assert emulator.named("BLOCK_JOB_COMPLETED")[0]["error"] == "Operation not supported"


async def test_failed_flush_of_the_data_file_fails_the_flush(emulator: Emulator) -> None:
    await create(emulator)
    await emulator.add_disk("disk")
    await emulator.qemu_io("disk", "write 0 64k")
    emulator.storage.faults.add(Fault("storage.flush", errno.EIO, {"path": "/d.raw"}))
    with pytest.raises(OSError, match="Input/output error"):
        await emulator.layer.find_node("disk").flush()


async def test_blockdev_create_refuses_a_raw_data_file_that_is_missing(emulator: Emulator) -> None:
    await (await emulator.storage.create("/disk.qcow2")).close()
    await emulator.execute(
        "blockdev-create",
        job_id="c",
        options={
            "driver": "qcow2", "size": MIB, "data-file-raw": True,
            "file": {"driver": "file", "filename": "/disk.qcow2"},
        },
    )  # fmt: skip
    await emulator.jobs_over()
    (job,) = await emulator.execute("query-jobs")
    assert job["error"] == "data-file-raw requires data-file"
    await emulator.execute("job-dismiss", id="c")
    assert not emulator.storage.open_files


async def test_statistics_show_the_file_that_holds_the_data(emulator: Emulator) -> None:
    await create(emulator)
    await emulator.add_disk("disk", data_file={**DATA, "node-name": "d"})
    (stats,) = (
        one
        for one in await emulator.execute("query-blockstats", query_nodes=True)
        if one["node-name"] == "disk"
    )
    assert stats["parent"]["node-name"] == "d"
