"""``qom-set`` of a device's ``drive``: how filters are put under a running guest, beside QEMU."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from blkxact.errors import QmpError
from tests.qapi.oracle import ask_qemu

from .conftest import MIB, Emulator

SDA = "/machine/peripheral/sda"
MACHINE = ("-accel", "tcg", "-S")


def put(value: Any, path: str = SDA, name: str = "drive") -> tuple[str, dict[str, Any]]:
    return "qom-set", {"path": path, "property": name, "value": value}


def get(path: str, name: str = "drive") -> tuple[str, dict[str, Any]]:
    return "qom-get", {"path": path, "property": name}


def disk(name: str, **members: Any) -> tuple[str, dict[str, Any]]:
    return "blockdev-add", {"driver": "null-co", "node-name": name, "size": MIB, **members}


def access(name: str, file: str) -> tuple[str, dict[str, Any]]:
    return "blockdev-add", {"driver": "snapshot-access", "node-name": name, "file": file}


def device(name: str, **members: Any) -> tuple[str, dict[str, Any]]:
    return "device_add", {"driver": name, **members}


CBW = {"driver": "copy-before-write", "node-name": "cbw", "file": "a", "target": "t"}
SCRIPT = [
    disk("a", **{"read-zeroes": True}),
    disk("n"),
    device("virtio-scsi", id="bus0"),
    device("scsi-hd", id="sda", drive="a"),
    device("virtio-blk-pci", id="vda", drive="n"),
    get(SDA),
    get("sda"),
    get("peripheral/sda"),
    get("/machine/peripheral/vda/virtio-backend"),
    get("/machine/peripheral/none"),
    get(SDA, "none"),
    get(SDA, "type"),
    put("a", path="/machine/peripheral/none"),
    put("none"),
    put(""),
    put(5),
    put("a", name="none"),
    put(True, name="share-rw"),
    put("sda"),
    disk("t"),
    ("blockdev-add", CBW | {"bitmap": {"node": "none", "name": "b"}}),
    ("blockdev-add", CBW | {"bitmap": {"node": "n", "name": "b"}}),
    ("block-dirty-bitmap-add", {"node": "n", "name": "b"}),
    ("blockdev-add", CBW | {"bitmap": {"node": "n", "name": "b"}}),
    access("early", "cbw"),
    put("cbw"),
    access("acc", "cbw"),
    access("other", "a"),
    get(SDA),
    put("a", path="/machine/peripheral/vda"),
    ("blockdev-del", {"node-name": "cbw"}),
    put("a"),
    ("blockdev-del", {"node-name": "acc"}),
    put("a"),
    ("blockdev-del", {"node-name": "cbw"}),
]


@pytest.mark.qemu
async def test_drive_property_answers_as_qemus() -> None:
    emulator = Emulator()
    for (name, arguments), theirs in zip(SCRIPT, ask_qemu(SCRIPT, MACHINE), strict=True):
        try:
            ours = {"return": await emulator.execute_wire(name, arguments) or {}}
        except QmpError as error:
            ours = {"error": error.as_reply()}
        assert ours == theirs, (name, arguments)


async def plugged(emulator: Emulator) -> None:
    for name in ("a", "t"):
        await emulator.create_disk(name, MIB)
        await emulator.add_disk(name)
    await emulator.execute("device_add", driver="scsi-hd", id="sda", drive="a")


async def test_filter_put_under_a_guest_keeps_what_it_overwrites(emulator: Emulator) -> None:
    await plugged(emulator)
    backend = emulator.layer.find_backend("sda")
    assert backend is not None
    await backend.pwrite(0, b"old")
    await emulator.execute_wire("blockdev-add", CBW)
    await emulator.execute_wire(*put("cbw"))
    await emulator.execute_wire(*access("acc", "cbw"))
    await backend.pwrite(0, b"new")
    assert "verification failed" not in await emulator.qemu_io("acc", "read -P 111 0 1")
    target = emulator.layer.find_node("t")
    assert await target.pread(0, 3) == b"old"
    await emulator.execute("blockdev-del", node_name="acc")
    await emulator.execute_wire(*put("a"))
    await emulator.execute("blockdev-del", node_name="cbw")
    assert await backend.pread(0, 3) == b"new"


async def test_drive_is_changed_when_the_guests_request_is_over(emulator: Emulator) -> None:
    """A request under way would go past the filter."""
    await emulator.execute("blockdev-add", driver="null-co", node_name="slow", latency_ns=10**7)
    await emulator.execute("blockdev-add", driver="null-co", node_name="n")
    await emulator.execute("device_add", driver="scsi-hd", id="sda", drive="slow")
    backend = emulator.layer.find_backend("sda")
    assert backend is not None
    reading = asyncio.create_task(backend.pread(0, 512))
    await asyncio.sleep(0)
    assert backend.in_flight
    await emulator.execute_wire(*put("n"))
    assert reading.done()
    assert backend.node is emulator.layer.find_node("n")


@pytest.mark.parametrize("sync", ["top", "full"])
async def test_filter_of_a_job_that_does_not_copy_all_shows_no_point_in_time(
    emulator: Emulator, sync: str
) -> None:
    await plugged(emulator)
    await emulator.execute(
        "blockdev-backup",
        device="a",
        target="t",
        sync=sync,
        job_id="j",
        filter_node_name="f",
        auto_finalize=False,
    )
    await emulator.execute_wire(*access("acc", "f"))
    node = emulator.layer.find_node("acc")
    if sync == "full":
        assert await node.pread(0, 3) == bytes(3)
    else:
        with pytest.raises(OSError, match="not supported"):
            await node.pread(0, 3)
