"""Calls in threads: results, errors, limits, cancellation, and their end."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest

from blkxact.storage.threads import Threads
from blkxact.testing.waiting import until

NAME = "blkxact-test"


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(3, NAME)
    yield made
    made.close()


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


class Gate:
    """A function that waits in its thread until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self._open = threading.Event()
        self._lock = threading.Lock()

    def pass_through(self) -> None:
        with self._lock:
            self.begun += 1
        assert self._open.wait(30)
        with self._lock:
            self.ended += 1

    def open(self) -> None:
        self._open.set()


async def test_result_and_error_are_the_function_s(threads: Threads) -> None:
    assert await threads.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.call(divmod, 7, 0)
    assert await threads.call(threading.current_thread) is not threading.current_thread()


async def test_many_calls_at_once_have_their_own_results(threads: Threads) -> None:
    calls = [threads.call(divmod, number, 7) for number in range(500)]
    assert await asyncio.gather(*calls) == [divmod(number, 7) for number in range(500)]


async def test_one_call_after_another_takes_one_thread(threads: Threads) -> None:
    for _ in range(20):
        await threads.call(int)
    assert len(running()) == 1


async def test_no_more_calls_run_than_there_may_be_threads(threads: Threads) -> None:
    gate = Gate()
    calls = [asyncio.ensure_future(threads.call(gate.pass_through)) for _ in range(10)]
    await until(lambda: gate.begun == 3)
    assert len(running()) == 3
    gate.open()
    await asyncio.gather(*calls)
    assert gate.ended == 10
    assert len(running()) == 3


@pytest.mark.parametrize("begun", [True, False])
async def test_cancelled_caller_waits_for_the_end(threads: Threads, begun: bool) -> None:
    first, second = Gate(), Gate()
    before = [asyncio.ensure_future(threads.call(first.pass_through)) for _ in range(3)]
    await until(lambda: first.begun == 3)
    if begun:
        first.open()
        await asyncio.gather(*before)
    call = asyncio.ensure_future(threads.call(second.pass_through))
    if begun:
        await until(lambda: second.begun)
    else:
        await asyncio.sleep(0)
    call.cancel()
    await asyncio.sleep(0)
    assert not call.done()
    first.open()
    second.open()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert second.ended == 1
    await asyncio.gather(*before)


async def test_error_of_a_cancelled_call_is_nobody_s(threads: Threads) -> None:
    gate = Gate()

    def fail() -> None:
        gate.pass_through()
        raise OSError

    call = asyncio.ensure_future(threads.call(fail))
    await until(lambda: gate.begun)
    call.cancel()
    await asyncio.sleep(0)
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_closed_threads_are_gone_and_others_start_when_needed(threads: Threads) -> None:
    await threads.call(int)
    threads.close()
    assert running() == []
    assert await threads.call(int) == 0
    threads.close()
    threads.close()


async def test_forgotten_threads_end() -> None:
    threads = Threads(3, NAME)
    await threads.call(int)
    del threads
    gc.collect()
    await until(lambda: not running())


def test_one_loop_after_another_may_call(threads: Threads) -> None:
    gate = Gate()

    async def leave() -> None:
        waiting = asyncio.get_running_loop().create_task(threads.call(gate.pass_through))
        await until(lambda: gate.begun)
        del waiting

    async def ask() -> int:
        return await threads.call(int)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    left = asyncio.all_tasks(loop)
    gate.open()
    loop.run_until_complete(asyncio.gather(*left))
    loop.close()
    assert asyncio.run(ask()) == 0
