"""TRANSACTION_COMPLETED comes when all is over, and that includes the images."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from blkxact.actions import run_actions
from blkxact.block_layer import BlockLayer
from blkxact.cli.image_create import create_image
from blkxact.enums import ActionCompletionMode, MirrorSyncMode
from blkxact.qapi.block_core import DriveBackup
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.events import Event, EventSink
from blkxact.storage.os_file import OsStorage


@pytest.mark.parametrize("mode", list(ActionCompletionMode))
async def test_completed_event_comes_when_the_targets_are_closed(
    image_dir: Path, mode: ActionCompletionMode
) -> None:
    """Whoever hears it can open the backups; deferred keeps them open the longest."""
    clock = SystemClock()
    events = EventSink(clock)
    layer = BlockLayer(OsStorage(), clock, events, rng=random.Random(1))
    file = {"driver": "file", "filename": str(image_dir / "disk.qcow2")}
    await create_image(file["filename"], "qcow2", 1 << 20)
    await layer.blockdev.add({"driver": "qcow2", "node-name": "disk", "file": file})
    before = set(layer.graph.nodes)
    open_at_the_event: list[set[str]] = []

    def hear(event: Event) -> None:
        if event["event"] == "TRANSACTION_COMPLETED":
            open_at_the_event.append(set(layer.graph.nodes) - before)

    events.subscribe(hear)
    backup = DriveBackup(
        job_id="job",
        device="disk",
        sync=MirrorSyncMode.FULL,
        target=str(image_dir / "target.qcow2"),
        format="qcow2",
    )
    await run_actions(layer, [("drive-backup", backup)], mode, "t")
    for job in list(layer.jobs.values()):
        await job.wait()
    assert open_at_the_event == [set()]
    await layer.shutdown()
