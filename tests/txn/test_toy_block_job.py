"""A job written by docs/adding-a-job.md, and what a test should ask of any block job."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import pytest

from blkxact.block.copy_sweep import may_go_on
from blkxact.block.node import BlockNode
from blkxact.enums import BlockdevOnError
from blkxact.job.block_job import BlockJob, BlockJobOptions
from blkxact.storage.errors import CopyError
from tests.emulator import Emulator

PIECE = 65536
PIECES = 16


class ScrubJob(BlockJob):
    """Reads all of a node, to find out whether it can be read."""

    type_name = "scrub"

    def __init__(self, host, job_id, txn, options, *, graph, node) -> None:
        super().__init__(host, job_id, txn, options, graph=graph)
        self.node = node
        self.total_progress = node.length
        self.hold("main node", node)

    def nodes(self):
        return (self.node,)

    async def run(self) -> None:
        await self.work_by_policy(self._read_all)

    async def _read_all(self) -> None:
        while self.remaining():
            await may_go_on(self)
            piece = min(PIECE, self.remaining())
            self.account(piece)
            try:
                await self.node.pread(self.current_progress, piece)
            except OSError as error:
                raise CopyError(error, reading=True) from error
            self.progressed(piece, self.remaining() - piece)


@pytest.fixture
async def emulator():
    emulator = Emulator()
    await emulator.execute(
        "blockdev-add", driver="null-co", node_name="disk", size=PIECES * PIECE, read_zeroes=True
    )
    yield emulator
    await emulator.layer.shutdown()


def scrub(emulator: Emulator, **options: Any) -> ScrubJob:
    layer = emulator.layer
    txn = layer.begin_transaction(None, None)
    node = layer.find_node("disk")
    given = BlockJobOptions(**options)
    return ScrubJob(layer, "scrub", txn, given, graph=layer.graph, node=node)


async def conclude(job: ScrubJob) -> None:
    async with asyncio.timeout(10):
        await job.wait()


def fail_reads(job: ScrubJob, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Let the first ``times`` reads at half of the disk fail with EIO."""
    pread = BlockNode.pread
    failed: list[int] = []

    async def pread_or_fail(node: BlockNode, offset: int, length: int) -> Any:
        if node is job.node and offset == PIECES // 2 * PIECE and len(failed) < times:
            failed.append(offset)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return await pread(node, offset, length)

    monkeypatch.setattr(BlockNode, "pread", pread_or_fail)
    return failed


def ended(emulator: Emulator) -> list[dict[str, Any]]:
    return [event["data"] for event in emulator.events if event["event"] == "BLOCK_JOB_COMPLETED"]


async def test_block_job_reads_all_and_releases_the_node(emulator) -> None:
    job = scrub(emulator)
    job.start()
    await conclude(job)
    (data,) = ended(emulator)
    assert (data["type"], data["offset"], data["len"]) == ("scrub", PIECES * PIECE, PIECES * PIECE)
    assert "error" not in data
    await emulator.execute("blockdev-del", node_name="disk")


async def test_block_job_pauses_resumes_and_is_cancelled(emulator) -> None:
    job = scrub(emulator, speed=PIECE)
    job.start()
    job.user_pause()
    async with asyncio.timeout(10):
        await job.idle()
    assert str(job.status) == "paused"
    job.user_resume()
    await job.user_cancel()
    await conclude(job)
    assert emulator.events[-3]["event"] == "BLOCK_JOB_CANCELLED"
    assert job.ret == -errno.ECANCELED
    await emulator.execute("blockdev-del", node_name="disk")


@pytest.mark.parametrize("policy", [BlockdevOnError.REPORT, BlockdevOnError.ENOSPC])
async def test_block_job_reports_an_error(emulator, monkeypatch, policy: BlockdevOnError) -> None:
    job = scrub(emulator, on_source_error=policy)
    fail_reads(job, monkeypatch, 1)
    job.start()
    await conclude(job)
    (data,) = ended(emulator)
    assert data["error"] == os.strerror(errno.EIO)
    assert data["offset"] == PIECES // 2 * PIECE


async def test_block_job_tries_again_what_it_ignores(emulator, monkeypatch) -> None:
    job = scrub(emulator, on_source_error=BlockdevOnError.IGNORE)
    failed = fail_reads(job, monkeypatch, 3)
    job.start()
    await conclude(job)
    (data,) = ended(emulator)
    assert "error" not in data
    assert len(failed) == 3


async def test_block_job_stops_and_continues_when_resumed(emulator, monkeypatch) -> None:
    job = scrub(emulator, on_source_error=BlockdevOnError.STOP)
    fail_reads(job, monkeypatch, 1)
    job.start()
    async with asyncio.timeout(10):
        await job.idle()
    assert (str(job.status), str(job.io_status)) == ("paused", "failed")
    job.user_resume()
    await conclude(job)
    (data,) = ended(emulator)
    assert "error" not in data
    assert data["offset"] == PIECES * PIECE
