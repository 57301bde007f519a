"""Removing a bitmap in a transaction that also changes what its node is."""

from __future__ import annotations

import pytest

from blkxact.block.backend import BlockBackend
from tests.emulator import Emulator

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
    emulator = Emulator()
    await emulator.create("/a")
    await emulator.open("a", "/a")
    backend = BlockBackend(emulator.layer.graph, "drive0")
    backend.insert(emulator.layer.graph.nodes["a"])
    emulator.layer.backends.append(backend)
    await emulator.execute("block-dirty-bitmap-add", node="a", name="b")
    remove = {"type": "block-dirty-bitmap-remove", "data": {"node": "drive0", "name": "b"}}
    await emulator.execute("transaction", actions=[remove, other])
    await emulator.jobs_over()
    assert not emulator.layer.graph.nodes["a"].bitmaps
    await emulator.layer.shutdown()


async def test_remove_after_a_snapshot_in_same_transaction_takes_it_out_of_the_image() -> None:
    emulator = Emulator()
    await emulator.disk("a")
    await emulator.execute("block-dirty-bitmap-add", node="a", name="b", persistent=True)
    await emulator.layer.shutdown()
    emulator = Emulator(emulator.storage)
    await emulator.open("a", "/a.qcow2")
    snapshot = {"node-name": "a", "snapshot-file": "/over", "snapshot-node-name": "over"}
    await emulator.execute(
        "transaction",
        actions=[
            {"type": "blockdev-snapshot-sync", "data": snapshot},
            {"type": "block-dirty-bitmap-remove", "data": {"node": "a", "name": "b"}},
        ],
    )
    await emulator.layer.shutdown()
    emulator = Emulator(emulator.storage)
    await emulator.open("a", "/a.qcow2")
    assert not emulator.layer.graph.nodes["a"].bitmaps
    await emulator.layer.shutdown()
