"""Internal snapshots as actions and commands."""

from __future__ import annotations

import pytest

from blkxact.drivers.qcow2.check import check_image
from blkxact.errors import QmpError
from tests.emulator import KIB, Emulator

SNAPSHOT = "blockdev-snapshot-internal-sync"
DELETE = "blockdev-snapshot-delete-internal-sync"


def names(emulator: Emulator, node: str = "a") -> list[str]:
    snapshots = emulator.layer.graph.nodes[node].driver.internal_snapshots
    assert snapshots is not None
    return [entry.name for entry in snapshots.entries]


async def assert_sound(emulator: Emulator, node: str = "a") -> None:
    await emulator.layer.graph.nodes[node].flush()
    found = await check_image(emulator.layer.graph.nodes[node].driver.image)
    assert (found.leaks, found.corruptions, found.check_errors) == (0, 0, 0), found.messages


async def test_internal_snapshot_of_two_disks_is_taken_in_one_transaction() -> None:
    emulator = Emulator()
    for name in ("a", "b"):
        guest = await emulator.disk(name)
        await guest.pwrite(0, b"x" * 128 * KIB)
    actions = [{"type": SNAPSHOT, "data": {"device": n, "name": "s"}} for n in ("a", "b")]
    await emulator.execute("transaction", actions=actions)
    assert names(emulator, "a") == names(emulator, "b") == ["s"]
    for name in ("a", "b"):
        await assert_sound(emulator, name)
    await emulator.layer.shutdown()


async def test_internal_snapshot_of_a_failed_transaction_is_deleted_again() -> None:
    emulator = Emulator()
    guest = await emulator.disk("a")
    await guest.pwrite(0, b"x" * 128 * KIB)
    actions = [
        {"type": SNAPSHOT, "data": {"device": "a", "name": "s"}},
        {"type": "abort", "data": {}},
    ]
    with pytest.raises(QmpError):
        await emulator.execute("transaction", actions=actions)
    assert names(emulator) == []
    await guest.pwrite(0, b"y" * 64 * KIB)
    await assert_sound(emulator)
    await emulator.layer.shutdown()


async def test_internal_snapshot_keeps_what_the_guest_overwrites() -> None:
    emulator = Emulator()
    guest = await emulator.disk("a")
    await guest.pwrite(0, b"x" * 128 * KIB)
    await emulator.execute(SNAPSHOT, device="a", name="s")
    await guest.pwrite(64 * KIB, b"y" * 128 * KIB)
    await assert_sound(emulator)
    driver = emulator.layer.graph.nodes["a"].driver
    assert driver.internal_snapshots is not None
    await driver.internal_snapshots.apply(driver.internal_snapshots.entries[0])
    assert await guest.pread(0, 256 * KIB) == b"x" * 128 * KIB + bytes(128 * KIB)
    await assert_sound(emulator)
    await emulator.layer.shutdown()


async def test_internal_snapshot_deleted_is_told_of() -> None:
    emulator = Emulator()
    guest = await emulator.disk("a")
    await guest.pwrite(0, b"x" * 128 * KIB)
    await emulator.execute(SNAPSHOT, device="a", name="s")
    await guest.pwrite(0, b"y" * 128 * KIB)
    told = await emulator.execute(DELETE, device="a", name="s")
    assert (told["id"], told["name"], told["vm-state-size"]) == ("1", "s", 0)
    assert names(emulator) == []
    await assert_sound(emulator)
    await emulator.layer.shutdown()


@pytest.mark.parametrize(
    ("command", "arguments", "refusal"),
    [
        (SNAPSHOT, {"device": "a", "name": ""}, "Name is empty"),
        (SNAPSHOT, {"device": "a", "name": "s"},
         "Snapshot with name 's' already exists on device 'a'"),
        (SNAPSHOT, {"device": "zz", "name": "s"},
         "Cannot find device='zz' nor node-name='zz'"),
        (DELETE, {"device": "a"}, "Name or id must be provided"),
        (DELETE, {"device": "a", "name": "t"},
         "Snapshot with id 'null' and name 't' does not exist on device 'a'"),
        (DELETE, {"device": "a", "id": "2", "name": "s"},
         "Snapshot with id '2' and name 's' does not exist on device 'a'"),
    ],
)  # fmt: skip
async def test_internal_snapshot_that_cannot_be_is_refused(
    command: str, arguments: dict[str, str], refusal: str
) -> None:
    emulator = Emulator()
    await emulator.disk("a")
    await emulator.execute(SNAPSHOT, device="a", name="s")
    with pytest.raises(QmpError) as refused:
        await emulator.execute(command, **arguments)
    assert refused.value.desc == refusal
    assert names(emulator) == ["s"]
    await emulator.layer.shutdown()
