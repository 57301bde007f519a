"""Removing a bitmap in a transaction that also changes what its node is."""

from __future__ import annotations

import pytest

from blkxact.block.backend import BlockBackend

from .house import House

BACKUP = {
    "type": "drive-backup",
    "data": {"device": "drive0", "job-id": "job", "sync": "full", "target": "/copy"},
}
SNAPSHOT = {
    "type": "blockdev-snapshot-sync",
    "data": {"device": "drive0", "snapshot-file": "/over", "snapshot-node-name": "over"},
}


@pytest.mark.parametrize("other", [BACKUP, SNAPSHOT], ids=["backup", "snapshot"])
async def test_remove_by_device_that_gets_another_node_removes_the_bitmap(other: object) -> None:
    house = House()
    await house.create("/a")
    await house.open("a", "/a")
    backend = BlockBackend(house.layer.graph, "drive0")
    backend.insert(house.layer.graph.nodes["a"])
    house.layer.backends.append(backend)
    await house.execute("block-dirty-bitmap-add", node="a", name="b")
    remove = {"type": "block-dirty-bitmap-remove", "data": {"node": "drive0", "name": "b"}}
    await house.execute("transaction", actions=[remove, other])
    await house.jobs_over()
    assert not house.layer.graph.nodes["a"].bitmaps
    await house.layer.shutdown()


async def test_remove_after_a_snapshot_in_same_transaction_takes_it_out_of_the_image() -> None:
    house = House()
    await house.disk("a")
    await house.execute("block-dirty-bitmap-add", node="a", name="b", persistent=True)
    await house.layer.shutdown()
    house = House(house.storage)
    await house.open("a", "/a.qcow2")
    snapshot = {"node-name": "a", "snapshot-file": "/over", "snapshot-node-name": "over"}
    await house.execute(
        "transaction",
        actions=[
            {"type": "blockdev-snapshot-sync", "data": snapshot},
            {"type": "block-dirty-bitmap-remove", "data": {"node": "a", "name": "b"}},
        ],
    )
    await house.layer.shutdown()
    house = House(house.storage)
    await house.open("a", "/a.qcow2")
    assert not house.layer.graph.nodes["a"].bitmaps
    await house.layer.shutdown()
