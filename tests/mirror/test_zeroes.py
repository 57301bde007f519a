"""Zeroes that a mirror need not write (QEMU 10.1): ``target-is-zero``, and what is found out."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from blkxact.block.types import Status
from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from blkxact.testing.waiting import until
from tests.emulator import KIB, SIZE, Emulator

CLUSTER = 64 * KIB
DATA = b"data" * (CLUSTER // 4)
OLD = b"old!" * (SIZE // 4)


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = Emulator()
    emulator.emulate("11.1")
    yield emulator
    await emulator.layer.shutdown()


async def add_target(emulator: Emulator, fmt: str = "qcow2", **options: Any) -> None:
    await emulator.create(f"/t.{fmt}", fmt)
    await emulator.open("t", f"/t.{fmt}", fmt, **options)


async def mirror(emulator: Emulator, **options: Any) -> None:
    """Start a mirror; return when it is ready."""
    start = {"job_id": "m", "device": "a", "target": "t", "sync": "full"}
    await emulator.execute("blockdev-mirror", **start | options)
    await until(lambda: emulator.named("BLOCK_JOB_READY"))


async def complete(emulator: Emulator) -> None:
    await emulator.execute("job-complete", id="m")
    await emulator.jobs_over()
    assert "error" not in emulator.named("BLOCK_JOB_COMPLETED")[-1]


async def content(emulator: Emulator, node: str = "t") -> bytes:
    return bytes(await emulator.layer.find_node(node).pread(0, SIZE))


async def allocated(emulator: Emulator) -> int:
    """Return how many bytes the target's own layer decides."""
    extents = await emulator.layer.find_node("t").layer_status((0, SIZE))
    return sum(extent.length for extent in extents if extent.status & Status.ALLOCATED)


def count_requests(emulator: Emulator) -> Counter[str]:
    """Return the counts of requests to the target from now on."""
    counts: Counter[str] = Counter()
    target = emulator.layer.find_node("t").address

    async def count(point: str, facts: Mapping[str, Any]) -> None:
        if facts["node"] == target:
            counts[point] += 1

    for point in ("request.write", "request.write-zeroes"):
        emulator.layer.points.listen(point, count)
    return counts


async def test_target_that_is_said_to_be_zero_is_not_zeroed(emulator: Emulator) -> None:
    """What is said is not checked: where the source holds nothing, old data remains."""
    guest = await emulator.disk("a")
    await add_target(emulator)
    target = emulator.plug("t")
    await target.pwrite(0, OLD)
    await emulator.execute("device_del", id="guest-t")
    await guest.pwrite(0, DATA)
    await mirror(emulator, target_is_zero=True)
    assert emulator.named("BLOCK_JOB_READY")[0]["len"] == CLUSTER
    assert await content(emulator) == DATA + OLD[CLUSTER:]
    await complete(emulator)


@pytest.mark.parametrize("target_is_zero", [None, False])
async def test_target_that_holds_something_is_zeroed(
    emulator: Emulator, target_is_zero: bool | None
) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    target = emulator.plug("t")
    await target.pwrite(0, OLD)
    await emulator.execute("device_del", id="guest-t")
    await guest.pwrite(0, DATA)
    given = {} if target_is_zero is None else {"target_is_zero": target_is_zero}
    await mirror(emulator, **given)
    assert await content(emulator) == DATA + bytes(SIZE - CLUSTER)


@pytest.mark.parametrize(
    ("version", "fmt"), [("10.0", "qcow2"), ("11.1", "qcow2"), ("11.1", "raw")]
)
async def test_target_that_reads_as_zeroes_gets_none(
    emulator: Emulator, version: str, fmt: str
) -> None:
    emulator.emulate(version)
    guest = await emulator.disk("a")
    await add_target(emulator, fmt, discard="unmap")
    await guest.pwrite(0, DATA)
    await guest.pwrite_zeroes(CLUSTER, CLUSTER)
    counts = count_requests(emulator)
    await mirror(emulator)
    assert emulator.named("BLOCK_JOB_READY")[0]["len"] == 2 * CLUSTER
    assert bool(counts["request.write-zeroes"]) is (version == "10.0")
    assert await content(emulator) == await content(emulator, "a")
    if fmt == "qcow2":
        assert await allocated(emulator) == (SIZE if version == "10.0" else CLUSTER)


async def test_target_whose_first_block_was_allocated_reads_as_zeroes(emulator: Emulator) -> None:
    """As ``blockdev-create`` leaves it."""
    guest = await emulator.disk("a")
    await add_target(emulator)
    target = emulator.plug("t")
    await target.pwrite(0, bytes(4 * KIB))
    await emulator.execute("device_del", id="guest-t")
    await guest.pwrite(0, DATA)
    counts = count_requests(emulator)
    await mirror(emulator)
    assert not counts["request.write-zeroes"]


async def test_holes_are_punched_where_the_target_asks_for_it(emulator: Emulator) -> None:
    """With ``detect-zeroes: unmap`` all of the source is visited, and zeroes are written."""
    guest = await emulator.disk("a")
    await add_target(emulator, discard="unmap", detect_zeroes="unmap")
    await guest.pwrite(0, DATA)
    counts = count_requests(emulator)
    await mirror(emulator, target_is_zero=True)
    assert emulator.named("BLOCK_JOB_READY")[0]["len"] == SIZE
    assert counts["request.write-zeroes"]


async def test_zeroes_of_the_guest_are_written_where_something_was(emulator: Emulator) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await guest.pwrite(0, DATA)
    counts = count_requests(emulator)
    await mirror(emulator, target_is_zero=True, copy_mode="write-blocking")
    await guest.pwrite_zeroes(2 * CLUSTER, CLUSTER)
    assert not counts["request.write-zeroes"]
    await guest.pwrite_zeroes(0, CLUSTER)
    assert counts["request.write-zeroes"] == 1
    await guest.pwrite_zeroes(0, CLUSTER)
    assert counts["request.write-zeroes"] == 1
    await guest.pwrite(CLUSTER + 512, DATA[:512])
    await guest.pwrite_zeroes(CLUSTER, CLUSTER)
    assert counts["request.write-zeroes"] == 2
    whole = await content(emulator, "a")
    assert await content(emulator) == whole == bytes(SIZE)
    await complete(emulator)


async def test_zeroes_are_written_where_a_write_has_failed(emulator: Emulator) -> None:
    guest = await emulator.disk("a")
    await add_target(emulator)
    await guest.pwrite(0, DATA)
    target = emulator.layer.find_node("t").address
    fault = Fault("request.write", errno.EIO, {"node": target}, times=1)
    emulator.storage.faults.add(fault)
    counts = count_requests(emulator)
    start = {"job_id": "m", "device": "a", "target": "t", "sync": "full"}
    await emulator.execute("blockdev-mirror", **start, on_target_error="stop")
    await until(lambda: emulator.named("BLOCK_JOB_ERROR"))
    await guest.pwrite_zeroes(0, CLUSTER)
    await emulator.execute("job-resume", id="m")
    await until(lambda: emulator.named("BLOCK_JOB_READY"))
    assert counts["request.write-zeroes"]
    await complete(emulator)


async def test_zeroes_of_the_top_layer_hide_the_backing_file_of_the_target(
    emulator: Emulator,
) -> None:
    """The target gets its backing file later; QEMU 11.1 leaves the zeroes out."""
    await emulator.create("/b.qcow2")
    await emulator.open("b", "/b.qcow2")
    emulator.plug("b")
    await emulator.qemu_io("b", "write -P 1 0 512k")
    await emulator.execute("device_del", id="guest-b")
    await emulator.create("/a.qcow2")
    await emulator.open("a", "/a.qcow2", backing="b")
    guest = emulator.plug("a")
    await guest.pwrite_zeroes(0, CLUSTER)
    before = await content(emulator, "a")
    await emulator.execute(
        "drive-mirror", job_id="m", device="a", target="/t.qcow2", sync="top", node_name="t"
    )
    await until(lambda: emulator.named("BLOCK_JOB_READY"))
    await complete(emulator)
    assert bytes(await guest.pread(0, SIZE)) == before


@pytest.mark.parametrize("version", ["7.2", "10.0"])
async def test_older_release_does_not_have_it(emulator: Emulator, version: str) -> None:
    emulator.emulate(version)
    with pytest.raises(QmpError, match=r"^Parameter 'target-is-zero' is unexpected$"):
        await emulator.execute(
            "blockdev-mirror", device="a", target="t", sync="full", target_is_zero=True
        )
