"""Mirrors on images in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.emulator import KIB, SIZE, Emulator


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


@pytest.fixture
async def emulator():
    emulator = Emulator()
    yield emulator
    await emulator.layer.shutdown()


async def mirror(emulator: Emulator, **options: Any) -> None:
    await emulator.execute(
        "blockdev-mirror",
        **{"job_id": "m", "device": "a", "target": "t", "sync": "full", **options},
    )


def ready(emulator: Emulator) -> bool:
    return bool(emulator.named("BLOCK_JOB_READY"))


@pytest.mark.parametrize("mode", ["background", "write-blocking"])
async def test_mirror_pivots_to_an_equal_target(emulator: Emulator, mode: str) -> None:
    guest = await emulator.disk("a")
    await emulator.create("/t.qcow2")
    await emulator.open("t", "/t.qcow2")
    await guest.pwrite(0, b"one!" * KIB)
    await mirror(emulator, copy_mode=mode)
    await until(lambda: ready(emulator))
    await guest.pwrite(64 * KIB - 512, b"two!" * KIB)
    await guest.pwrite_zeroes(0, KIB)
    whole = bytes(await guest.pread(0, SIZE))
    await emulator.execute("job-complete", id="m")
    await emulator.jobs_over()
    assert emulator.named("BLOCK_JOB_COMPLETED")
    assert guest.node is emulator.layer.find_node("t")
    assert bytes(await guest.pread(0, SIZE)) == whole
    assert not emulator.layer.jobs
    await emulator.execute("blockdev-del", node_name="a")
