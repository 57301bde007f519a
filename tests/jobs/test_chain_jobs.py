"""Commits and streams on images in memory: what the disks hold, and what is left after failures."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission
from blkxact.enums import JobStatus
from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from blkxact.testing.waiting import until, until_idle
from tests.emulator import KIB, MIB, Emulator

SIZE = 4 * MIB
CLUSTER = 64 * KIB
NAMES = ("base", "mid", "top")


class Chain(Emulator):
    """base <- mid <- top, with a guest above."""

    guest: BlockBackend

    async def build(self, rng: random.Random, sizes: tuple[int, int, int] = (SIZE,) * 3) -> None:
        """Make the images; each has data, zeroes and holes of its own."""
        below = None
        for name, size in zip(NAMES, sizes, strict=True):
            await self.create_disk(name, size)
            await self.add_disk(name, backing=below)
            below = name
            node = self.layer.find_node(name)
            for _ in range(12):
                length = rng.choice([KIB, 4 * KIB, CLUSTER, 700 * KIB])
                offset = rng.randrange((size - length) // KIB) * KIB
                if rng.random() < 0.7:
                    await node.pwrite(offset, rng.randbytes(length))
                else:
                    await node.pwrite_zeroes(offset, length)
        for name in NAMES[:-1]:
            await self.layer.blockdev.set_read_only(self.layer.find_node(name), read_only=True)
        self.guest = self.plug("top")

    async def content(self, name: str, size: int = SIZE) -> bytes:
        """Return what a node reads as."""
        return bytes(await self.layer.find_node(name).pread(0, size))

    async def commit(self, **options: Any) -> None:
        """Start to commit mid into base."""
        arguments = {"device": "top", "top_node": "mid", "base_node": "base", "job_id": "j"}
        await self.execute("block-commit", **arguments | options)

    async def stream(self, **options: Any) -> None:
        """Start to stream everything into top."""
        await self.execute("block-stream", **{"device": "top", "job_id": "j"} | options)

    def backing_of(self, name: str) -> str | None:
        """Return the backing file of a node."""
        backing = self.layer.find_node(name).backing
        return None if backing is None else backing.node_name

    def fail_writes(self, path: str, code: int, **how: Any) -> None:
        """Let writes to a file fail from now on."""
        for point in ("storage.pwrite", "storage.write_zeroes"):
            self.storage.faults.add(Fault(point, code, {"path": path}, **how))


@pytest.fixture
async def chain(seeded: random.Random) -> AsyncIterator[Chain]:
    chain = Chain()
    await chain.build(seeded)
    yield chain
    await chain.layer.shutdown()


# Both


async def writes(chain: Chain, rng: random.Random, model: bytearray) -> None:
    """Let the guest write while a job works. A mirror converges only when that ends."""
    for _ in range(300):
        if not chain.layer.jobs:
            return
        length = rng.choice([512, 4 * KIB, CLUSTER])
        offset = rng.randrange((len(model) - length) // 512) * 512
        data = rng.randbytes(length)
        model[offset : offset + length] = data
        await chain.guest.pwrite(offset, data)
        await asyncio.sleep(0)


@pytest.mark.parametrize("job", ["commit", "stream"])
async def test_guest_waits_until_the_header_names_the_new_backing_file(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    driver, held = chain.layer.find_node("top").driver, []
    change = driver.set_backing_file

    async def note(*arguments: Any) -> None:
        held.append(chain.guest.quiesced > 0)
        await change(*arguments)

    monkeypatch.setattr(driver, "set_backing_file", note)
    await (chain.commit() if job == "commit" else chain.stream(base_node="base"))
    await chain.jobs_over()
    assert held == [True]
    assert not chain.guest.quiesced
    assert chain.backing_of("top") == "base"


@pytest.mark.parametrize("speed", [0, 1 << 30], ids=["unlimited", "limited"])
@pytest.mark.parametrize("job", ["commit", "stream", "active"])
@pytest.mark.parametrize("round_", range(3))
async def test_job_while_the_guest_writes_changes_nothing_it_reads(
    seeded: random.Random, job: str, speed: int, round_: int
) -> None:
    chain = Chain()
    await chain.build(seeded)
    model = bytearray(await chain.content("top"))
    if job == "commit":
        await chain.commit(speed=speed)
    elif job == "stream":
        await chain.stream(speed=speed)
    else:
        await chain.commit(top_node="top", speed=speed)
    writing = asyncio.create_task(writes(chain, seeded, model))
    if job == "active":
        await until(lambda: chain.named("BLOCK_JOB_READY"))
        await chain.execute("job-complete", id="j")
    await writing
    await chain.jobs_over()
    assert bytes(await chain.guest.pread(0, SIZE)) == bytes(model)
    (done,) = chain.named("BLOCK_JOB_COMPLETED")
    assert "error" not in done
    assert done["len"] == done["offset"]
    if job == "active":
        assert chain.guest.node is chain.layer.find_node("base")
    else:
        assert chain.backing_of("top") == ("base" if job == "commit" else None)
    await chain.layer.shutdown()


@pytest.mark.parametrize("job", ["commit", "stream"])
async def test_job_that_is_cancelled_leaves_the_chain(chain: Chain, job: str) -> None:
    before = await chain.content("top")
    await getattr(chain, job)(speed=1)
    await until(lambda: chain.layer.find_job("j").current_progress)
    await chain.execute("job-cancel", id="j")
    await chain.jobs_over()
    assert len(chain.named("BLOCK_JOB_CANCELLED")) == 1
    assert await chain.content("top") == before
    assert [chain.backing_of(name) for name in NAMES] == [None, "base", "mid"]
    assert [chain.layer.find_node(name).read_only for name in NAMES] == [True, True, False]
    await getattr(chain, job)()  # nothing of the first is in the way
    await chain.jobs_over()
    assert await chain.content("top") == before


@pytest.mark.parametrize("job", ["commit", "stream"])
async def test_job_that_is_paused_while_it_waits_for_its_speed_still_waits(
    chain: Chain, job: str
) -> None:
    await getattr(chain, job)(speed=1)
    await until_idle()
    copied = chain.layer.find_job("j").current_progress
    await chain.execute("job-pause", id="j")
    await until(lambda: chain.layer.find_job("j").status is JobStatus.PAUSED)
    assert chain.layer.find_job("j").current_progress == copied
    await chain.execute("job-resume", id="j")
    await until_idle()
    assert chain.layer.find_job("j").current_progress == copied
    await chain.execute("job-cancel", id="j")
    await chain.jobs_over()
    assert chain.named("BLOCK_JOB_CANCELLED")[0]["offset"] == copied


async def test_cancelled_commit_leaves_a_filter_that_keeps_two_devices_apart(chain: Chain) -> None:
    """One writes what the other, above the filter, lets nobody write; QEMU 7.2 aborts."""
    chain.guest.close()
    top = chain.layer.find_node("top")
    reader, writer = (
        BlockBackend(chain.layer.graph, perm=perm, shared=shared)
        for perm, shared in [
            (Permission.CONSISTENT_READ, Permission.ALL & ~Permission.WRITE),
            (Permission.WRITE, Permission.ALL),
        ]
    )
    reader.insert(top)
    await chain.commit(top_node="top", filter_node_name="f")
    await until(lambda: chain.layer.find_job("j").is_ready)
    writer.insert(top)
    await chain.execute("job-cancel", id="j")
    await chain.jobs_over()
    assert len(chain.named("BLOCK_JOB_CANCELLED")) == 1
    assert reader.node is chain.layer.find_node("f")
    await writer.pwrite(0, b"w" * KIB)
    assert bytes(await reader.pread(0, KIB)) == b"w" * KIB
    reader.close()
    await chain.layer.close_unused_nodes()
    assert "f" not in chain.layer.graph.nodes
    writer.close()
    await chain.layer.shutdown()


@pytest.mark.parametrize("job", ["commit", "stream"])
async def test_job_that_cannot_hold_its_nodes_leaves_everything(chain: Chain, job: str) -> None:
    nodes = set(chain.layer.graph.nodes)
    blockers = dict(chain.layer.find_node("mid").blockers)
    options = {"top_node": "mid"} if job == "commit" else {}
    with pytest.raises(QmpError, match="Duplicate nodes with node-name='base'"):
        await getattr(chain, job)(filter_node_name="base", **options)
    with pytest.raises(QmpError, match="Invalid job ID"):
        await getattr(chain, job)(job_id="#", **options)
    with pytest.raises(QmpError, match="expects a non-negative value"):
        await getattr(chain, job)(speed=-1, **options)
    assert set(chain.layer.graph.nodes) == nodes
    assert not await chain.execute("query-jobs")
    assert chain.layer.find_node("mid").blockers == blockers
    assert chain.layer.find_node("base").read_only


@pytest.mark.parametrize("job", ["commit", "stream"])
async def test_job_reports_an_error_and_leaves_the_chain(chain: Chain, job: str) -> None:
    before = await chain.content("top")
    target = "/base.qcow2" if job == "commit" else "/top.qcow2"
    chain.fail_writes(target, errno.ENOSPC, times=None)
    await getattr(chain, job)()
    await chain.jobs_over()
    (done,) = chain.named("BLOCK_JOB_COMPLETED")
    assert done["error"] == "No space left on device"
    assert done["offset"] < done["len"]
    (error,) = chain.named("BLOCK_JOB_ERROR")
    assert error == {
        "device": "j",
        "operation": "write" if job == "commit" else "read",
        "action": "report",
    }
    chain.storage.faults.clear()
    assert [chain.backing_of(name) for name in NAMES] == [None, "base", "mid"]
    assert await chain.content("top") == before


@pytest.mark.parametrize("policy", ["stop", "enospc"])
@pytest.mark.parametrize("job", ["commit", "stream"])
async def test_job_stops_at_an_error_and_goes_on(chain: Chain, job: str, policy: str) -> None:
    before = await chain.content("top")
    target = "/base.qcow2" if job == "commit" else "/top.qcow2"
    chain.fail_writes(target, errno.ENOSPC, times=None)
    await getattr(chain, job)(on_error=policy)
    await until(lambda: chain.layer.find_job("j").status == "paused")
    (info,) = await chain.execute("query-block-jobs")
    assert (info["io-status"], info["paused"]) == ("nospace", True)
    chain.storage.faults.clear()
    await chain.execute("job-resume", id="j")
    await chain.jobs_over()
    (done,) = chain.named("BLOCK_JOB_COMPLETED")
    assert "error" not in done
    assert await chain.content("top") == before


# Commit


async def test_commit_base_gets_what_mid_read_as(chain: Chain) -> None:
    expected = await chain.content("mid")
    await chain.commit()
    await chain.jobs_over()
    assert await chain.content("base") == expected
    assert chain.layer.find_node("base").read_only
    assert chain.layer.find_node("top").driver.backing_file == "/base.qcow2"
    await chain.execute("blockdev-del", node_name="mid")


async def test_commit_grows_a_base_that_is_shorter(seeded: random.Random) -> None:
    chain = Chain()
    await chain.build(seeded, (2 * MIB, 3 * MIB, SIZE))
    expected = await chain.content("top"), await chain.content("mid", 3 * MIB)
    await chain.commit()
    await chain.jobs_over()
    assert await chain.content("base", 3 * MIB) == expected[1]
    assert await chain.content("top") == expected[0]
    assert chain.layer.find_node("base").length == 3 * MIB
    await chain.layer.shutdown()


async def test_commit_marks_the_bitmaps_of_the_base(chain: Chain) -> None:
    await chain.layer.blockdev.set_read_only(chain.layer.find_node("base"), read_only=False)
    await chain.execute("block-dirty-bitmap-add", node="base", name="b")
    old, new = await chain.content("base"), await chain.content("mid")
    await chain.commit()
    await chain.jobs_over()
    runs = chain.layer.find_node("base").bitmaps["b"].runs()
    dirty = {o // CLUSTER + i for o, n in runs for i in range(-(-n // CLUSTER))}
    parts = range(0, SIZE, CLUSTER)
    changed = {o // CLUSTER for o in parts if old[o : o + CLUSTER] != new[o : o + CLUSTER]}
    assert changed <= dirty


async def test_commit_retries_an_ignored_error(chain: Chain) -> None:
    expected = await chain.content("mid")
    chain.fail_writes("/base.qcow2", errno.EIO, times=3)
    await chain.commit(on_error="ignore")
    await chain.jobs_over()
    assert len(chain.named("BLOCK_JOB_ERROR")) in (3, 6)
    assert "error" not in chain.named("BLOCK_JOB_COMPLETED")[0]
    assert await chain.content("base") == expected


async def test_commit_header_that_cannot_be_written_fails_the_job(chain: Chain) -> None:
    before = await chain.content("top")
    await chain.commit(auto_finalize=False)
    await until(lambda: chain.named("BLOCK_JOB_PENDING"))
    chain.fail_writes("/top.qcow2", errno.EIO, times=None)
    await chain.execute("job-finalize", id="j")
    chain.storage.faults.clear()
    (done,) = chain.named("BLOCK_JOB_COMPLETED")
    assert done["error"] == "Input/output error"
    assert await chain.content("top") == before


# Stream


async def test_stream_leaves_the_bitmaps_of_the_image_clean(chain: Chain) -> None:
    await chain.execute("block-dirty-bitmap-add", node="top", name="b")
    await chain.stream()
    await chain.jobs_over()
    assert chain.bitmaps("top")["b"]["count"] == 0


async def test_stream_down_to_bottom_keeps_what_is_below(chain: Chain) -> None:
    before = await chain.content("top")
    await chain.stream(bottom="mid")
    await chain.jobs_over()
    assert chain.backing_of("top") == "base"
    assert await chain.content("top") == before


async def test_stream_of_a_read_only_image_leaves_it_read_only(chain: Chain) -> None:
    before = await chain.content("mid")
    await chain.stream(device="mid")
    assert not chain.layer.find_node("mid").read_only
    await chain.jobs_over()
    assert chain.layer.find_node("mid").read_only
    assert (chain.backing_of("mid"), await chain.content("mid")) == (None, before)


async def test_stream_that_ignored_an_error_fails_in_the_end_and_keeps_the_chain(
    chain: Chain,
) -> None:
    before = await chain.content("top")
    chain.fail_writes("/top.qcow2", errno.EIO)
    await chain.stream(on_error="ignore")
    await chain.jobs_over()
    (done,) = chain.named("BLOCK_JOB_COMPLETED")
    assert (done["error"], done["offset"]) == ("Input/output error", SIZE)
    assert chain.backing_of("top") == "mid"
    assert await chain.content("top") == before


async def test_device_del_cancels_the_jobs_on_its_drive(chain: Chain) -> None:
    backend = chain.guest
    backend.name = "drive0"
    await chain.commit(speed=1)
    await chain.execute("device_del", id="guest-top")
    await chain.jobs_over()
    assert len(chain.named("BLOCK_JOB_CANCELLED")) == 1


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("block_stream nope", "Error: Cannot find device='nope' nor node-name='nope'\r\n"),
        ("block_stream d x", "invalid size\r\n"),
        ("block_stream d 0 nope", "Error: Can't find 'nope' in the backing chain\r\n"),
        ("block_stream d 1 /base.qcow2", ""),
    ],
)
async def test_hmp_block_stream(chain: Chain, line: str, reply: str) -> None:
    chain.guest.close()
    backend = BlockBackend(chain.layer.graph, "d")
    backend.insert(chain.layer.find_node("top"))
    chain.layer.backends[:] = [backend]
    answer = await chain.execute("human-monitor-command", command_line=line)
    assert answer.startswith(reply)
    assert bool(answer) == bool(reply)
    if not reply:
        assert (await chain.execute("query-block-jobs"))[0]["speed"] == MIB
        await chain.execute("block-job-set-speed", device="d", speed=0)
        await chain.jobs_over()
        assert chain.backing_of("top") == "base"
