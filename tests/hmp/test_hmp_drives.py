"""Drives that are added and removed at the human monitor."""

from __future__ import annotations

import pytest
from tests.emulator import Emulator

from blkxact.cli.system_line import parse_hot_drive


@pytest.fixture
async def emulator() -> Emulator:
    emulator = Emulator()
    emulator.layer.parse_drive = parse_hot_drive
    await emulator.create_disk("d")
    return emulator


async def test_a_drive_is_added_plugged_in_and_taken_away(emulator: Emulator) -> None:
    assert await emulator.hmp("drive_add 0 if=none,id=x,file=/d.qcow2,format=qcow2") == "OK\r\n"
    await emulator.execute("device_add", driver="virtio-blk-pci", id="v", drive="x")
    assert not await emulator.hmp("drive_del x")
    (block,) = await emulator.execute("query-block")
    assert block["device"] == ""
    assert "inserted" not in block
    assert not emulator.layer.graph.nodes
    assert await emulator.hmp("drive_del x") == "Device 'x' not found\r\n"
    await emulator.execute("device_del", id="v")
    assert not await emulator.execute("query-block")
    assert await emulator.hmp("drive_add 0 if=none,id=x,file=/d.qcow2,format=qcow2") == "OK\r\n"


async def test_a_drive_without_a_device_is_gone(emulator: Emulator) -> None:
    assert await emulator.hmp("drive_add auto if=none,id=x,file=/d.qcow2") == "OK\r\n"
    assert not await emulator.hmp("drive_del x")
    assert not await emulator.execute("query-block")
    assert not emulator.layer.graph.nodes


async def test_a_node_is_deleted(emulator: Emulator) -> None:
    await emulator.add_disk("d")
    assert not await emulator.hmp("drive_del d")
    assert not emulator.layer.graph.nodes


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("drive_add 0 if=virtio,id=y", "Can't hot-add drive to type 7"),
        ("drive_add 0 if=none,id=x", "Duplicate ID 'x' for drive"),
        ("drive_add 0 if=nope", "unsupported bus type 'nope'"),
        (
            "drive_add 0 if=none,id=y,file=/none",
            "Could not open '/none': No such file or directory",
        ),
        ("drive_del y", "Device 'y' not found"),
    ],
)
async def test_what_cannot_be_is_refused(emulator: Emulator, line: str, reply: str) -> None:
    await emulator.hmp("drive_add 0 if=none,id=x")
    assert await emulator.hmp(line) == f"{reply}\r\n"
    assert list(emulator.layer.graph.backends) == ["x"]


async def test_a_disk_that_a_job_uses_stays(emulator: Emulator) -> None:
    await emulator.hmp("drive_add 0 if=none,id=x,file=/d.qcow2,format=qcow2")
    words = {"device": "x", "target": "/t", "sync": "none", "job_id": "j"}
    await emulator.execute("drive-backup", **words)
    assert "block device is in use by block job" in await emulator.hmp("drive_del x")
    await emulator.layer.shutdown()
