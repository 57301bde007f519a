"""Two disks on one node share its thread, as an iothread of their controllers."""

from __future__ import annotations

import pytest

from blkxact.errors import QmpError
from tests.emulator import Emulator


@pytest.fixture
async def emulator() -> Emulator:
    emulator = Emulator()
    await emulator.execute("blockdev-add", driver="null-co", node_name="n", read_only=True)
    for number in ("0", "1"):
        await emulator.execute("object-add", qom_type="iothread", id=f"t{number}")
        members = {"driver": "virtio-scsi", "id": f"scsi{number}", "iothread": f"t{number}"}
        await emulator.execute("device_add", **members)
    return emulator


async def plug(emulator: Emulator, name: str, bus: str | None) -> None:
    members = {"driver": "scsi-hd", "id": name, "drive": "n"} | ({"bus": bus} if bus else {})
    await emulator.execute("device_add", **members)


async def test_disks_of_two_threads_cannot_share_a_node(emulator: Emulator) -> None:
    await plug(emulator, "a", "scsi0.0")
    with pytest.raises(QmpError, match=r"^Cannot change iothread of active block backend$"):
        await plug(emulator, "b", "scsi1.0")
    await emulator.execute("device_del", id="a")
    await plug(emulator, "b", "scsi1.0")


async def test_disks_of_one_thread_can(emulator: Emulator) -> None:
    await plug(emulator, "a", None)
    await plug(emulator, "b", "scsi0.0")
    assert len(emulator.layer.find_node("n").parents) == 2


async def test_a_node_does_not_leave_the_thread_of_a_disk_above_its_child(
    emulator: Emulator,
) -> None:
    await plug(emulator, "a", "scsi0.0")
    await emulator.execute(
        "blockdev-add", driver="raw", node_name="other", file="n", read_only=True
    )
    for thread in ("t1", None):
        with pytest.raises(QmpError, match=r"^Cannot change iothread of active block backend$"):
            await emulator.execute("x-blockdev-set-iothread", node_name="other", iothread=thread)
    await emulator.execute("x-blockdev-set-iothread", node_name="other", iothread="t0")
    await emulator.execute("device_del", id="a")
    await emulator.execute("x-blockdev-set-iothread", node_name="other", iothread="t1")


async def test_a_reopen_cannot_join_disks_of_two_threads(emulator: Emulator) -> None:
    for name in ("a", "b"):
        await emulator.create_disk(name)
        file = {"driver": "file", "filename": f"/{name}.qcow2", "node-name": f"{name}-file"}
        await emulator.execute("blockdev-add", driver="qcow2", node_name=name, file=file)
        bus = {"a": "scsi0.0", "b": "scsi1.0"}[name]
        members = {"driver": "scsi-hd", "drive": name, "bus": bus, "share-rw": True}
        await emulator.execute_wire("device_add", members)
    options = {"driver": "qcow2", "node-name": "a", "file": "a-file", "backing": "b"}
    with pytest.raises(QmpError, match="Cannot change iothread of active block backend"):
        await emulator.execute("blockdev-reopen", options=[options])
    assert emulator.layer.find_node("a").backing is None


async def test_no_iothread_is_one_without_a_name() -> None:
    emulator = Emulator()
    await emulator.execute_wire("device_add", {"driver": "virtio-scsi", "id": "c", "iothread": ""})
    assert emulator.layer.devices.find("/machine/peripheral/c") is not None
