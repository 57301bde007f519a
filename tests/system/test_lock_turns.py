"""The lock of commands: they take turns with the endings of jobs, and release what they hold."""

from __future__ import annotations

import asyncio

import pytest

from blkxact.hmp.host import Context
from blkxact.testing.waiting import until_idle
from blkxact.transaction import PREPARES_PER_TURN


async def test_command_waits_for_one_ending_and_not_for_all(emulator) -> None:
    layer = emulator.layer
    order: list[str] = []

    async def ending(number: int) -> None:
        async with layer.ending():
            order.append(f"ending {number}")

    async def command() -> None:
        async with layer.lock:
            order.append("command")

    async with layer.lock:
        endings = [asyncio.create_task(ending(number)) for number in range(100)]
        await asyncio.sleep(0)
        asked = asyncio.create_task(command())
        await asyncio.sleep(0)
    await asyncio.gather(asked, *endings)
    assert order.index("command") <= 1
    assert len(order) == 101


async def test_human_command_cancelled_while_it_waits_for_the_lock_releases_nothing(
    emulator,
) -> None:
    layer = emulator.layer
    gate = asyncio.Event()

    async def human() -> None:
        async with Context(layer, None, layer.lock) as context:
            await context.wait(gate.wait())

    task = asyncio.create_task(human())
    await asyncio.sleep(0)
    await layer.lock.acquire()  # another command runs meanwhile
    gate.set()
    await until_idle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert layer.lock.locked()
    layer.lock.release()
    assert not layer.lock.locked()


async def test_command_that_needs_no_lock_is_answered_while_a_transaction_is_launched(
    emulator,
) -> None:
    await emulator.execute("blockdev-add", driver="null-co", node_name="disk", size=1 << 20)
    actions = [
        {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": f"b{number}"}}
        for number in range(10 * PREPARES_PER_TURN)
    ]
    launched = asyncio.create_task(emulator.execute("transaction", actions=actions))
    answers = 0
    while not launched.done():
        await asyncio.sleep(0)
        if emulator.layer.lock.locked():
            assert await emulator.execute("query-status")
            answers += 1
    await launched
    assert answers >= 10
