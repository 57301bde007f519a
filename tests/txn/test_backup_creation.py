"""Backups that fail while their job is created: nothing of them is left."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from blkxact.errors import QmpError
from tests.emulator import Emulator

MIB = 1 << 20


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = Emulator()
    for name in ("base", "top", "target"):
        await emulator.create_disk(name, MIB)
    await emulator.add_disk("base")
    await emulator.add_disk("target")
    device = {"driver": "virtio-blk", "id": "d", "drive": "base", "share-rw": True}
    await emulator.execute_wire("device_add", device)
    await emulator.add_disk("top", backing="base")
    yield emulator
    await emulator.layer.shutdown()


async def test_backup_that_cannot_take_its_nodes_leaves_no_job_and_no_filter(
    emulator: Emulator,
) -> None:
    """The guest writes to the base, so nobody may read ``top`` and rely on what it reads."""
    await emulator.execute("block-dirty-bitmap-add", node="top", name="b")
    before = sorted(emulator.layer.graph.nodes)
    with pytest.raises(QmpError, match="Permission conflict on node 'base'"):
        await emulator.execute(
            "blockdev-backup",
            job_id="j",
            device="top",
            target="target",
            sync="incremental",
            bitmap="b",
        )
    statuses = [one["status"] for one in emulator.named("JOB_STATUS_CHANGE")]
    assert statuses == ["created", "null"]
    assert await emulator.execute("query-jobs") == []
    assert sorted(emulator.layer.graph.nodes) == before
    assert emulator.bitmaps("top")["b"]["busy"] is False
    await emulator.execute_wire("device_del", {"id": "d"})
    await emulator.execute(
        "blockdev-backup", job_id="j", device="top", target="target", sync="full"
    )
    emulator.layer.jobs["j"].request_cancel()
    await emulator.layer.jobs["j"].wait()
