"""The end of an emulator, whatever goes on in it."""

from __future__ import annotations

import asyncio

import pytest

from blkxact.testing.loop import run_simulated
from blkxact.testing.memory_file import MemoryStorage

from .house import KIB, House


def backup(disk: str, **options: object) -> dict[str, object]:
    data = {"device": disk, "job-id": f"job-{disk}", "sync": "full", "target": f"/{disk}.copy"}
    return {"type": "drive-backup", "data": data | options}


@pytest.mark.parametrize("mode", ["individual", "grouped", "deferred"])
async def test_shutdown_with_pending_jobs_ends_each_once(mode: str) -> None:
    house = House()
    for disk in ("a", "b"):
        await house.disk(disk)
    pending = {"auto-finalize": False}
    await house.execute(
        "transaction",
        actions=[backup("a", **pending), backup("b", **pending)],
        properties={"completion-mode": mode, "id": "t"},
    )
    await house.jobs_over()
    await house.layer.shutdown()
    assert [data["device"] for data in house.told("BLOCK_JOB_CANCELLED")].count("job-a") == 1
    assert [data["device"] for data in house.told("BLOCK_JOB_CANCELLED")].count("job-b") == 1
    assert [data["status"] for data in house.told("TRANSACTION_COMPLETED")] == ["cancelled"]
    assert not house.storage.open_files


def test_shutdown_while_guest_writes_waits_for_it() -> None:
    async def main() -> None:
        house = House(MemoryStorage(latency=0.01))
        guest = await house.disk("a")
        writing = asyncio.create_task(guest.pwrite(0, b"x" * 64 * KIB))
        await asyncio.sleep(0)
        await house.layer.shutdown()
        assert writing.done()
        assert not house.storage.open_files
        await writing

    run_simulated(main(), keep_order=True)
