"""Drives and their devices, and defects that QEMU's own iotests showed."""

from __future__ import annotations

import asyncio
import errno
import json

import pytest

from blkxact.errors import QmpError
from blkxact.machine.drives import add_drive, typed
from blkxact.machine.options import DriveOptions
from blkxact.qmp.json_text import encode_pretty
from blkxact.testing.faults import Fault

from .conftest import MIB, Emulator


async def add_virtio(emulator: Emulator, name: str = "drive0", **members: object) -> None:
    """Add what ``-drive if=virtio`` does."""
    await emulator.create_disk(name)
    drive = DriveOptions(name, f"/{name}.qcow2", "qcow2", dict(members), device="virtio-blk")
    await add_drive(emulator.layer, drive)
    emulator.layer.devices.add({"driver": "virtio-blk", "drive": name})


async def test_drive_with_a_device_shows_in_query_block(emulator: Emulator) -> None:
    await add_virtio(emulator)
    (block,) = await emulator.execute("query-block")
    assert block["device"] == "drive0"
    assert block["qdev"] == "/machine/peripheral-anon/device[0]/virtio-backend"


async def test_drive_that_cannot_be_opened_leaves_nothing(emulator: Emulator) -> None:
    with pytest.raises(QmpError, match="No such file"):
        await add_drive(emulator.layer, DriveOptions("d", "/none.qcow2", "qcow2"))
    assert await emulator.execute("query-block") == []
    assert await emulator.execute("query-named-block-nodes") == []


async def test_drive_error_policy_stays_when_its_device_says_nothing(emulator: Emulator) -> None:
    await emulator.create_disk("d")
    await add_drive(emulator.layer, DriveOptions("d", "/d.qcow2", on_write_error="stop"))
    emulator.layer.devices.add({"driver": "virtio-blk", "drive": "d", "rerror": "ignore"})
    (backend,) = emulator.layer.backends
    assert (backend.on_read_error, backend.on_write_error) == ("ignore", "stop")


async def test_drive_name_goes_to_the_file_below_all_formats(emulator: Emulator) -> None:
    """QEMU's iotest 120: ``driver=raw,file.driver=qcow2,file=IMAGE``."""
    await emulator.create_disk("d")
    drive = DriveOptions("d", "/d.qcow2", "raw", {"file": {"driver": "qcow2"}})
    await add_drive(emulator.layer, drive)
    assert emulator.layer.lookup("d", None).driver.format_name == "raw"
    nodes = await emulator.execute("query-named-block-nodes")
    assert sorted(node["drv"] for node in nodes) == ["file", "qcow2", "raw"]


async def test_drive_options_for_the_file_are_added_to_its_name(emulator: Emulator) -> None:
    await add_virtio(emulator, file={"node-name": "f"})
    assert emulator.layer.find_node("f").driver.format_name == "file"


def test_typed_members_have_the_types_of_the_schema() -> None:
    members = {"read-only": "on", "file": {"filename": "/a", "drop-cache": "off"}}
    assert typed(members, is_device=lambda _: False) == {
        "read-only": True,
        "file": {"driver": "file", "filename": "/a", "drop-cache": False},
    }


async def test_backup_without_a_job_id_is_named_by_its_drive(emulator: Emulator) -> None:
    await add_virtio(emulator)
    await emulator.execute("drive-backup", device="drive0", sync="full", target="/t.qcow2")
    assert [job["id"] for job in await emulator.execute("query-jobs")] == ["drive0"]
    await emulator.layer.jobs["drive0"].wait()


async def test_backup_in_format_file_makes_a_raw_target(emulator: Emulator) -> None:
    await add_virtio(emulator)
    await emulator.execute(
        "drive-backup", device="drive0", sync="full", target="/t.img", format="file"
    )
    await emulator.layer.jobs["drive0"].wait()
    assert emulator.storage.exists("/t.img")


async def test_backup_shows_the_bitmaps_of_its_filter(emulator: Emulator) -> None:
    await add_virtio(emulator)
    await emulator.execute(
        "drive-backup", device="drive0", sync="none", target="/t.qcow2", filter_node_name="top"
    )
    nodes = {n["node-name"]: n for n in await emulator.execute("query-named-block-nodes")}
    access, done = nodes["top"]["dirty-bitmaps"]
    assert (access["count"], done["count"]) == (8 * MIB, 0)
    source = emulator.layer.find_node("top").filtered
    assert source is not None
    (left,) = nodes[source.node_name]["dirty-bitmaps"]
    assert left["count"] == 8 * MIB
    assert not any("name" in b or b["recording"] for b in (access, done, left))
    await asyncio.sleep(0)  # the job's first turn
    await emulator.layer.shutdown()
    assert emulator.named("BLOCK_JOB_CANCELLED")[0]["len"] == 8 * MIB


async def test_overlay_that_opened_its_own_backing_file_keeps_the_short_name(
    emulator: Emulator,
) -> None:
    await add_virtio(emulator, "base")
    await emulator.execute(
        "blockdev-snapshot-sync", device="base", snapshot_file="/top.qcow2", format="qcow2"
    )
    await emulator.layer.shutdown()
    again = Emulator(emulator.storage)
    await again.add_disk("top")
    node = again.layer.find_node("top")
    assert node.filename == "/top.qcow2"
    await again.execute(
        "change-backing-file", device="top", image_node_name="top", backing_file="null-co://"
    )
    assert node.driver.backing_file == "null-co://"
    assert list(json.loads(node.filename.removeprefix("json:"))) == ["backing", "driver", "file"]
    await again.layer.shutdown()


async def test_backing_options_without_a_driver_name_the_headers_file(emulator: Emulator) -> None:
    await add_virtio(emulator, "base")
    await emulator.execute(
        "blockdev-snapshot-sync", device="base", snapshot_file="/top.qcow2", format="qcow2"
    )
    await emulator.layer.shutdown()
    again = Emulator(emulator.storage)
    members = {"backing": {"node-name": "below"}}
    await add_drive(again.layer, DriveOptions("d", "/top.qcow2", None, members))
    assert again.layer.find_node("below").filename == "/base.qcow2"
    await again.layer.shutdown()


async def test_change_backing_file_of_an_image_without_one_is_refused(emulator: Emulator) -> None:
    await emulator.create_disk("a")
    await emulator.add_disk("a")
    with pytest.raises(QmpError, match="not allowing backing file change on an image without"):
        await emulator.execute(
            "change-backing-file", device="a", image_node_name="a", backing_file="/x"
        )


async def test_persistent_bitmaps_are_stored_the_latest_first(emulator: Emulator) -> None:
    await emulator.create_disk("a")
    await emulator.add_disk("a")
    for name in ("old", "mid", "new"):
        await emulator.execute("block-dirty-bitmap-add", node="a", name=name, persistent=True)
    await emulator.layer.shutdown()
    again = Emulator(emulator.storage)
    await again.add_disk("a")
    assert list(again.bitmaps("a")) == ["new", "mid", "old"]
    await again.layer.shutdown()


async def test_reopen_makes_writable_and_read_only(emulator: Emulator) -> None:
    await emulator.create_disk("a")
    await emulator.add_disk("a", read_only=True)
    node = emulator.layer.find_node("a")
    file = {"driver": "file", "filename": "/a.qcow2"}
    options = {"driver": "qcow2", "node-name": "a", "file": file}
    await emulator.execute("blockdev-reopen", options=[options])
    assert not node.read_only
    await emulator.execute("blockdev-reopen", options=[{**options, "read-only": True}])
    assert node.read_only


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"driver": "raw"}, "driver"),
        ({"file": {"driver": "file", "filename": "/other"}}, "filename"),
    ],
)
async def test_reopen_with_another_option_is_refused_for_all(
    emulator: Emulator, change: dict, option: str
) -> None:
    for name in ("a", "b"):
        await emulator.create_disk(name)
        await emulator.add_disk(name, read_only=True)
    same = [
        {
            "driver": "qcow2",
            "node-name": name,
            "file": {"driver": "file", "filename": f"/{name}.qcow2"},
        }
        for name in ("a", "b")
    ]
    with pytest.raises(QmpError, match=f"Cannot change the option '{option}'"):
        await emulator.execute("blockdev-reopen", options=[same[0], {**same[1], **change}])
    assert emulator.layer.find_node("a").read_only


async def test_set_iothread_of_an_unknown_thread_is_refused(emulator: Emulator) -> None:
    await emulator.create_disk("a")
    await emulator.add_disk("a")
    with pytest.raises(QmpError, match="Cannot find iothread t0"):
        await emulator.execute("x-blockdev-set-iothread", node_name="a", iothread="t0")
    await emulator.execute("object-add", qom_type="iothread", id="t0")
    await emulator.execute("x-blockdev-set-iothread", node_name="a", iothread="t0")
    await emulator.execute("x-blockdev-set-iothread", node_name="a", iothread=None)


async def test_hmp_block_resize_without_a_suffix_means_mebibytes(emulator: Emulator) -> None:
    await add_virtio(emulator)
    assert not await emulator.execute(
        "human-monitor-command", command_line="block_resize drive0 16"
    )
    assert emulator.layer.find_node("drive0").length == 16 * MIB


def test_pretty_text_closes_empty_things_on_their_own_line() -> None:
    text = encode_pretty({"return": {}, "id": [], "text": "{}"}).decode()
    assert text.split("\r\n") == [
        *("{", '    "text": "{}",', '    "return": {', "    },", '    "id": [', "    ]", "}", "")
    ]


# Temporary overlays.


async def add_with_overlay(emulator: Emulator, **members: object) -> None:
    await emulator.create_disk("d")
    drive = DriveOptions("d", "/d.qcow2", "qcow2", dict(members), snapshot_folder="/tmp")
    await add_drive(emulator.layer, drive)


async def test_overlay_of_a_drive_takes_what_is_written(emulator: Emulator) -> None:
    await add_with_overlay(emulator)
    (backend,) = emulator.layer.backends
    await emulator.qemu_io("d", "write -P 7 0 4k")
    assert bytes(await backend.pread(0, 8)) == b"\x07" * 8
    assert backend.node is not None
    assert backend.node.backing is not None
    assert backend.node.backing.read_only
    assert bytes(await backend.node.backing.pread(0, 8)) == bytes(8)
    (block,) = await emulator.execute("query-block")
    assert block["inserted"]["cache"]["no-flush"] is True
    assert '"backing": {"driver": "qcow2"' in block["inserted"]["file"]


async def test_overlay_of_a_drive_has_no_name(emulator: Emulator) -> None:
    await add_with_overlay(emulator)
    assert not any(emulator.storage.exists(f"/tmp/vl.{number:06}") for number in range(9))


async def test_name_and_zeroes_of_a_drive_with_an_overlay(emulator: Emulator) -> None:
    await add_with_overlay(emulator, **{"node-name": "n", "detect-zeroes": "on"})
    (backend,) = emulator.layer.backends
    assert backend.node is not None
    assert backend.node.backing is emulator.layer.find_node("n")
    assert backend.node.detect_zeroes == "on"
    assert emulator.layer.find_node("n").detect_zeroes == "off"


async def test_drive_whose_medium_is_read_only_has_such_an_overlay(emulator: Emulator) -> None:
    await add_with_overlay(emulator, **{"read-only": "on"})
    (backend,) = emulator.layer.backends
    assert backend.node is not None
    assert backend.node.read_only


async def test_overlay_that_cannot_be_made_leaves_nothing(emulator: Emulator) -> None:
    await emulator.create_disk("d")
    emulator.storage.faults.add(Fault("storage.create", errno.ENOSPC))
    drive = DriveOptions("d", "/d.qcow2", "qcow2", snapshot_folder="/tmp")
    with pytest.raises(QmpError) as caught:
        await add_drive(emulator.layer, drive)
    assert caught.value.desc.startswith("Could not create temporary overlay '/tmp/vl.")
    assert caught.value.desc.endswith("No space left on device")
    assert emulator.layer.backends == []
    assert await emulator.execute("query-named-block-nodes") == []
    assert not any(emulator.storage.exists(f"/tmp/vl.{number:06}") for number in range(9))


# Statistics.


async def test_intervals_of_a_drive_are_reported_in_their_order(emulator: Emulator) -> None:
    await emulator.create_disk("d")
    drive = DriveOptions("d", "/d.qcow2", "qcow2", stats_intervals=("60", "10"))
    await add_drive(emulator.layer, drive)
    await emulator.qemu_io("d", "aio_write 0 64k")
    await emulator.qemu_io("d", "aio_flush")
    (device,) = await emulator.execute("query-blockstats")
    timed = device["stats"]["timed_stats"]
    assert [one["interval_length"] for one in timed] == [60, 10]
    for one in timed:
        assert one["avg_wr_latency_ns"] == device["stats"]["wr_total_time_ns"]
        assert one["avg_rd_latency_ns"] == 0
        assert 0 < one["avg_wr_queue_depth"] < 1


@pytest.mark.parametrize("text", ["abc", "0", "-1", "4294967296", "1.5", ""])
async def test_interval_that_is_none_is_refused(emulator: Emulator, text: str) -> None:
    await emulator.create_disk("d")
    with pytest.raises(QmpError, match=f"^Invalid interval length: {text}$"):
        await add_drive(emulator.layer, DriveOptions("d", "/d.qcow2", stats_intervals=(text,)))
    assert emulator.layer.backends == []


async def test_device_that_says_nothing_accounts_as_its_drive(emulator: Emulator) -> None:
    await emulator.create_disk("d")
    drive = DriveOptions("d", "/d.qcow2", account_failed=False)
    await add_drive(emulator.layer, drive)
    emulator.layer.devices.add({"driver": "virtio-blk", "drive": "d", "account-invalid": "off"})
    (backend,) = emulator.layer.backends
    assert not backend.accounting.account_failed
    assert not backend.accounting.account_invalid


async def test_names_repeat_the_options_of_a_drive_as_they_were_given(emulator: Emulator) -> None:
    """QEMU's iotest 186."""
    members = {"driver": "raw", "node-name": "n", "file": {"driver": "null-co", "size": "1M"}}
    await add_drive(emulator.layer, DriveOptions("d", members=members))
    names = {one["drv"]: one["file"] for one in await emulator.execute("query-named-block-nodes")}
    file = {"driver": "null-co", "size": "1M"}
    assert json.loads(names["null-co"].removeprefix("json:")) == file
    assert json.loads(names["raw"].removeprefix("json:")) == {"driver": "raw", "file": file}
    options = {"driver": "raw", "node-name": "n", "file": {"driver": "null-co", "size": MIB}}
    await emulator.execute("blockdev-reopen", options=[options])
    names = {one["drv"]: one["file"] for one in await emulator.execute("query-named-block-nodes")}
    assert json.loads(names["raw"].removeprefix("json:"))["file"]["size"] in {MIB, "1M"}


@pytest.mark.parametrize(
    ("device", "path"),
    [
        ("ide-hd", "/machine/unattached/device[1024]"),
        ("floppy", "/machine/unattached/device[1024]"),
        ("cfi.pflash01", "/machine/system.flash0"),
    ],
)
async def test_device_of_the_board_is_not_among_those_of_the_user(
    emulator: Emulator, device: str, path: str
) -> None:
    drive = DriveOptions("d", members={"driver": "null-co"}, device=device)
    await add_drive(emulator.layer, drive)
    emulator.layer.devices.add_of_board(device, "d")
    (block,) = await emulator.execute("query-block")
    assert block["qdev"] == path
    assert block["removable"] is (device == "floppy")
    listed = await emulator.execute("qom-list", path=path)
    assert {"name": "type", "type": "string"} in listed
    assert await emulator.execute("qom-list", path="/machine/peripheral-anon") == [
        {"name": "type", "type": "string"}
    ]
    with pytest.raises(QmpError, match="already in use by another device"):
        emulator.layer.devices.add_of_board(device, "d")
