"""Backups of many small pieces on real files: a process copies, guest and monitor interfere.

What one point in time held is what the target holds, whoever copied it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission
from blkxact.errors import QmpError
from blkxact.storage.copy_process import CopyProcess
from blkxact.storage.os_file import OsStorage
from blkxact.testing.waiting import until

from .conftest import Emulator

CLUSTER = 65536
CLUSTERS = 512


class Scattered:
    """A disk of which every other cluster holds data, and what it holds."""

    def __init__(self, storage: OsStorage, directory: Path, rng: random.Random) -> None:
        emulator = Emulator(storage)  # type: ignore[arg-type]  # real files instead of those in memory
        self.emulator, self.storage, self.directory, self.rng = emulator, storage, directory, rng
        self.content = [0] * CLUSTERS
        """The byte of which each cluster is full."""

    async def add(self, node: str, driver: str = "qcow2") -> Path:
        path = self.directory / f"{node}.{driver}"
        file = {"driver": "file", "filename": str(path)}
        if driver == "qcow2":
            await create_qcow2(self.emulator, path)
        else:
            path.touch()
            os.truncate(path, CLUSTERS * CLUSTER)
        await self.emulator.execute("blockdev-add", driver=driver, node_name=node, file=file)
        return path

    async def write(self, *clusters: int) -> None:
        for cluster in clusters:
            byte = self.rng.randrange(1, 256)
            await self.guest.pwrite(cluster * CLUSTER, bytes([byte]) * CLUSTER)
            self.content[cluster] = byte

    def plug(self) -> None:
        """Let there be a guest that has the disk."""
        graph, all_ = self.emulator.layer.graph, Permission.ALL
        perm = Permission.CONSISTENT_READ | Permission.WRITE
        self.guest = BlockBackend(graph, perm=perm, shared=all_)
        self.guest.insert(self.emulator.layer.find_node("disk"))

    async def again(self) -> str:
        """Return a new target in the place of the old one."""
        await self.add("target", "raw")
        return "target"

    async def start(self, target: str, **more: Any) -> list[int]:
        """Start a backup; return what the disk held at its point in time."""
        arguments = {"device": "disk", "target": target, "job_id": "job", "sync": "full", **more}
        await self.emulator.execute("blockdev-backup", **arguments)
        return list(self.content)


async def create_qcow2(emulator: Emulator, path: Path) -> None:
    options = {"driver": "file", "filename": str(path), "size": 0}
    await emulator.execute("blockdev-create", job_id="c", options=options)
    await emulator.jobs_over()
    await emulator.execute("job-dismiss", id="c")
    file = {"driver": "file", "filename": str(path)}
    options = {"driver": "qcow2", "size": CLUSTERS * CLUSTER, "file": file}
    await emulator.execute("blockdev-create", job_id="c", options=options)
    await emulator.jobs_over()
    await emulator.execute("job-dismiss", id="c")


def check(path: Path, wanted: list[int]) -> None:
    """Check the bytes of a raw file."""
    with path.open("rb") as file:
        for cluster, byte in enumerate(wanted):
            assert file.read(CLUSTER) == bytes([byte]) * CLUSTER, cluster


@pytest.fixture
async def disk(image_dir: Path, seeded: random.Random) -> AsyncIterator[Scattered]:
    storage = OsStorage(copy_processes=1)
    scattered = Scattered(storage, image_dir, seeded)
    await scattered.add("disk")
    scattered.plug()
    await scattered.write(*range(0, CLUSTERS, 2))
    process = storage.workers.copy_processes.take()
    assert process is not None
    await until(process.is_ready)
    storage.workers.copy_processes.give_back(process)
    yield scattered
    scattered.guest.close()
    await scattered.emulator.layer.shutdown()
    storage.close()


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of copies that the process has done."""
    real, numbers = CopyProcess.copy, []

    def copy(self: CopyProcess, target: int, copies: Any) -> bool:
        numbers.append(len(copies))
        return real(self, target, copies)

    monkeypatch.setattr(CopyProcess, "copy", copy)
    return numbers


async def meddle(disk: Scattered) -> None:
    """Write, pause and resume at random until the job is over."""
    jobs = disk.emulator.layer.jobs
    while "job" in jobs:
        await disk.write(disk.rng.randrange(CLUSTERS))
        if disk.rng.random() < 0.2:
            with contextlib.suppress(QmpError):  # it may be over
                await disk.emulator.execute("job-pause", id="job")
                await disk.write(disk.rng.randrange(CLUSTERS))
                await disk.emulator.execute("job-resume", id="job")
        await asyncio.sleep(0)


async def test_guest_that_writes_meanwhile_does_not_change_the_backup(
    disk: Scattered, copied: list[int]
) -> None:
    path = await disk.add("target", "raw")
    wanted = await disk.start("target")
    await meddle(disk)
    assert disk.emulator.named("BLOCK_JOB_COMPLETED")[-1].get("error") is None
    check(path, wanted)
    assert sum(copied) >= CLUSTERS // 4


async def test_process_that_is_killed_in_the_middle_is_not_missed(
    disk: Scattered, copied: list[int]
) -> None:
    path = await disk.add("target", "raw")
    wanted = await disk.start("target")
    await until(lambda: bool(copied))
    process = disk.storage.workers.copy_processes.take()
    os.kill(process.pid, signal.SIGKILL)
    await meddle(disk)
    check(path, wanted)


async def test_job_that_is_cancelled_in_the_middle_leaves_nothing_behind(
    disk: Scattered, copied: list[int]
) -> None:
    await disk.add("target", "raw")
    await disk.start("target")
    await until(lambda: bool(copied))
    await disk.emulator.execute("block-job-cancel", device="job", force=True)
    await disk.emulator.jobs_over()
    assert disk.emulator.named("BLOCK_JOB_CANCELLED")
    await disk.emulator.execute("blockdev-del", node_name="target")
    wanted, path = await disk.start(await disk.again()), disk.directory / "target.raw"
    await meddle(disk)
    check(path, wanted)
