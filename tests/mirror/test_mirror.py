"""Mirrors on images in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.txn.house import KIB, SIZE, House


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


@pytest.fixture
async def house():
    house = House()
    yield house
    await house.layer.shutdown()


async def mirror(house: House, **options: Any) -> None:
    await house.execute(
        "blockdev-mirror",
        **{"job_id": "m", "device": "a", "target": "t", "sync": "full", **options},
    )


def ready(house: House) -> bool:
    return bool(house.told("BLOCK_JOB_READY"))


@pytest.mark.parametrize("mode", ["background", "write-blocking"])
async def test_mirror_pivots_to_an_equal_target(house: House, mode: str) -> None:
    guest = await house.disk("a")
    await house.create("/t.qcow2")
    await house.open("t", "/t.qcow2")
    await guest.pwrite(0, b"one!" * KIB)
    await mirror(house, copy_mode=mode)
    await until(lambda: ready(house))
    await guest.pwrite(64 * KIB - 512, b"two!" * KIB)
    await guest.pwrite_zeroes(0, KIB)
    whole = bytes(await guest.pread(0, SIZE))
    await house.execute("job-complete", id="m")
    await house.jobs_over()
    assert house.told("BLOCK_JOB_COMPLETED")
    assert guest.node is house.layer.find_node("t")
    assert bytes(await guest.pread(0, SIZE)) == whole
    assert not house.layer.jobs
    await house.execute("blockdev-del", node_name="a")
