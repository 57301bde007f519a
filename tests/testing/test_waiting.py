"""Waiting for a condition, and for a loop that has nothing to do."""

from __future__ import annotations

import asyncio
import socket

import pytest

from blkxact.testing.loop import LivelockError, run_simulated
from blkxact.testing.waiting import until, until_idle


async def count(turns: int, done: list[int]) -> None:
    for number in range(turns):
        await asyncio.sleep(0)
        done.append(number)


async def test_until_idle_lets_all_run_that_is_ready():
    done: list[int] = []
    tasks = [asyncio.create_task(count(turns, done)) for turns in (1, 300, 1000)]
    await until_idle()
    assert len(done) == 1301
    await asyncio.gather(*tasks)


def test_until_idle_lets_all_run_in_whatever_order(sim_seed):
    async def main() -> int:
        done: list[int] = []
        task = asyncio.create_task(count(300, done))
        await until_idle()
        await task
        return len(done)

    assert run_simulated(main(), sim_seed) == 300


async def test_until_idle_waits_for_no_timer_that_is_not_due():
    timer = asyncio.create_task(asyncio.sleep(3600))
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0, event.set)
    waiting = asyncio.create_task(event.wait())
    await until_idle()
    assert waiting.done()
    assert not timer.done()
    timer.cancel()


async def test_until_idle_sees_what_arrives_at_a_socket():
    one, other = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=one)
    reading = asyncio.create_task(reader.readexactly(100_000))
    for _ in range(10):
        other.sendall(b"x" * 10_000)
    await until_idle()
    assert reading.done()
    writer.close()
    other.close()


async def test_until_idle_gives_up_on_a_loop_that_always_has_something_to_do():
    spinning = asyncio.create_task(count(10_000_000, []))
    with pytest.raises(LivelockError, match="still busy after 50 turns"):
        await until_idle(50)
    spinning.cancel()


async def test_until_returns_when_the_condition_holds():
    done: list[int] = []
    task = asyncio.create_task(count(100, done))
    await until(lambda: len(done) >= 7)
    assert len(done) == 7
    await task


def test_until_gives_up_after_its_time(sim_seed):
    async def main() -> None:
        with pytest.raises(AssertionError, match=r"still not true after 0\.001 s"):
            await until(lambda: False, 0.001)

    run_simulated(main(), sim_seed)
