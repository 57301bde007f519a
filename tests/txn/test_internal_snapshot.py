"""Internal snapshots as actions and commands."""

from __future__ import annotations

import pytest

from blkxact.drivers.qcow2.check import check_image
from blkxact.errors import QmpError

from .house import KIB, House

SNAPSHOT = "blockdev-snapshot-internal-sync"
DELETE = "blockdev-snapshot-delete-internal-sync"


def names(house: House, node: str = "a") -> list[str]:
    snapshots = house.layer.graph.nodes[node].driver.internal_snapshots
    assert snapshots is not None
    return [entry.name for entry in snapshots.entries]


async def assert_sound(house: House, node: str = "a") -> None:
    await house.layer.graph.nodes[node].flush()
    found = await check_image(house.layer.graph.nodes[node].driver.image)
    assert (found.leaks, found.corruptions, found.check_errors) == (0, 0, 0), found.messages


async def test_internal_snapshot_of_two_disks_is_taken_in_one_transaction() -> None:
    house = House()
    for name in ("a", "b"):
        guest = await house.disk(name)
        await guest.pwrite(0, b"x" * 128 * KIB)
    actions = [{"type": SNAPSHOT, "data": {"device": n, "name": "s"}} for n in ("a", "b")]
    await house.execute("transaction", actions=actions)
    assert names(house, "a") == names(house, "b") == ["s"]
    for name in ("a", "b"):
        await assert_sound(house, name)
    await house.layer.shutdown()


async def test_internal_snapshot_of_a_failed_transaction_is_deleted_again() -> None:
    house = House()
    guest = await house.disk("a")
    await guest.pwrite(0, b"x" * 128 * KIB)
    actions = [
        {"type": SNAPSHOT, "data": {"device": "a", "name": "s"}},
        {"type": "abort", "data": {}},
    ]
    with pytest.raises(QmpError):
        await house.execute("transaction", actions=actions)
    assert names(house) == []
    await guest.pwrite(0, b"y" * 64 * KIB)
    await assert_sound(house)
    await house.layer.shutdown()


async def test_internal_snapshot_keeps_what_the_guest_overwrites() -> None:
    house = House()
    guest = await house.disk("a")
    await guest.pwrite(0, b"x" * 128 * KIB)
    await house.execute(SNAPSHOT, device="a", name="s")
    await guest.pwrite(64 * KIB, b"y" * 128 * KIB)
    await assert_sound(house)
    driver = house.layer.graph.nodes["a"].driver
    assert driver.internal_snapshots is not None
    await driver.internal_snapshots.apply(driver.internal_snapshots.entries[0])
    assert await guest.pread(0, 256 * KIB) == b"x" * 128 * KIB + bytes(128 * KIB)
    await assert_sound(house)
    await house.layer.shutdown()


async def test_internal_snapshot_deleted_is_told_of() -> None:
    house = House()
    guest = await house.disk("a")
    await guest.pwrite(0, b"x" * 128 * KIB)
    await house.execute(SNAPSHOT, device="a", name="s")
    await guest.pwrite(0, b"y" * 128 * KIB)
    told = await house.execute(DELETE, device="a", name="s")
    assert (told["id"], told["name"], told["vm-state-size"]) == ("1", "s", 0)
    assert names(house) == []
    await assert_sound(house)
    await house.layer.shutdown()


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
    house = House()
    await house.disk("a")
    await house.execute(SNAPSHOT, device="a", name="s")
    with pytest.raises(QmpError) as refused:
        await house.execute(command, **arguments)
    assert refused.value.desc == refusal
    assert names(house) == ["s"]
    await house.layer.shutdown()
