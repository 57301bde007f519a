"""Restoring: a full backup and the increments on it show the disk."""

from __future__ import annotations

from tests.emulator import KIB, SIZE, Emulator


async def test_increment_with_zeroes_hides_what_the_full_backup_holds() -> None:
    emulator = Emulator()
    guest = await emulator.disk("a")
    await guest.pwrite(0, b"x" * 256 * KIB)
    await emulator.execute("block-dirty-bitmap-add", node="a", name="b")
    await emulator.execute("drive-backup", device="a", job_id="full", sync="full", target="/full")
    await emulator.jobs_over()
    await guest.pwrite_zeroes(64 * KIB, 64 * KIB)
    await emulator.execute(
        "drive-backup", device="a", job_id="inc", sync="incremental", bitmap="b", target="/inc"
    )
    await emulator.jobs_over()
    full = {"driver": "qcow2", "file": {"driver": "file", "filename": "/full"}}
    await emulator.open("chain", "/inc", read_only=True, backing=full)
    restored = await emulator.layer.graph.nodes["chain"].pread(0, SIZE)
    assert restored == await guest.pread(0, SIZE)
    await emulator.layer.shutdown()


async def test_top_backup_with_snapshot_in_same_transaction_copies_the_layer_of_its_start() -> None:
    emulator = Emulator()
    guest = await emulator.disk("a")
    await guest.pwrite(0, b"x" * 128 * KIB)
    await emulator.execute(
        "transaction",
        actions=[
            {
                "type": "drive-backup",
                "data": {"device": "a", "job-id": "top", "sync": "top", "target": "/copy"},
            },
            {
                "type": "blockdev-snapshot-sync",
                "data": {
                    "node-name": "a",
                    "snapshot-file": "/overlay",
                    "snapshot-node-name": "overlay",
                },
            },
        ],
    )
    await emulator.jobs_over()
    await emulator.open("copy", "/copy", read_only=True)
    copied = await emulator.layer.graph.nodes["copy"].pread(0, SIZE)
    assert copied == await guest.pread(0, SIZE)
    await emulator.layer.shutdown()
