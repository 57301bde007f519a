"""The end of an emulator, whatever goes on in it."""

from __future__ import annotations

import asyncio

import pytest

from blkxact.testing.loop import run_simulated
from blkxact.testing.memory_file import MemoryStorage
from tests.emulator import KIB, Emulator


def backup(disk: str, **options: object) -> dict[str, object]:
    data = {"device": disk, "job-id": f"job-{disk}", "sync": "full", "target": f"/{disk}.copy"}
    return {"type": "drive-backup", "data": data | options}


@pytest.mark.parametrize("mode", ["individual", "grouped", "deferred"])
async def test_shutdown_with_pending_jobs_ends_each_once(mode: str) -> None:
    emulator = Emulator()
    for disk in ("a", "b"):
        await emulator.disk(disk)
    pending = {"auto-finalize": False}
    await emulator.execute(
        "transaction",
        actions=[backup("a", **pending), backup("b", **pending)],
        properties={"completion-mode": mode, "id": "t"},
    )
    await emulator.jobs_over()
    await emulator.layer.shutdown()
    assert [data["device"] for data in emulator.named("BLOCK_JOB_CANCELLED")].count("job-a") == 1
    assert [data["device"] for data in emulator.named("BLOCK_JOB_CANCELLED")].count("job-b") == 1
    assert [data["status"] for data in emulator.named("TRANSACTION_COMPLETED")] == ["cancelled"]
    assert not emulator.storage.open_files


def test_shutdown_while_guest_writes_waits_for_it() -> None:
    async def main() -> None:
        emulator = Emulator(MemoryStorage(latency=0.01))
        guest = await emulator.disk("a")
        writing = asyncio.create_task(guest.pwrite(0, b"x" * 64 * KIB))
        await asyncio.sleep(0)
        await emulator.layer.shutdown()
        assert writing.done()
        assert not emulator.storage.open_files
        await writing

    run_simulated(main(), keep_order=True)
