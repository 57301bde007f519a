"""Who waits for whom."""

import asyncio

from blkxact.block.range_lock import RangeLock
from blkxact.testing.waiting import until_idle


async def started(task):
    """Let a task run until it waits."""
    await until_idle()
    return task.done()


async def acquire(lock, start, end, *, exclusive):
    task = asyncio.ensure_future(lock.acquire(start, end, exclusive=exclusive))
    await started(task)
    return task


async def test_writers_in_place_share_a_range():
    lock = RangeLock()
    assert lock.try_share(0, 10)
    assert lock.try_share(5, 15)


async def test_exclusive_range_waits_for_those_who_share_it():
    lock = RangeLock()
    first, second = lock.try_share(0, 10), lock.try_share(5, 15)
    alone = await acquire(lock, 8, 20, exclusive=True)
    lock.release(second)
    assert not await started(alone)
    lock.release(first)
    assert await started(alone)


async def test_exclusive_range_leaves_its_neighbours_alone():
    lock = RangeLock()
    await lock.acquire(10, 20, exclusive=True)
    assert lock.try_share(0, 10)
    assert lock.try_share(20, 30)
    assert lock.try_share(19, 21) is None


async def test_waiting_exclusive_range_is_not_overtaken():
    lock = RangeLock()
    first = lock.try_share(0, 10)
    alone = await acquire(lock, 0, 10, exclusive=True)
    assert lock.try_share(0, 10) is None
    late = await acquire(lock, 0, 10, exclusive=False)
    assert not late.done()
    lock.release(first)
    assert await started(alone)
    assert not await started(late)
    lock.release(alone.result())
    assert await started(late)


async def test_cancelled_waiter_sets_free_those_behind_it():
    lock = RangeLock()
    first = lock.try_share(0, 10)
    alone = await acquire(lock, 0, 10, exclusive=True)
    late = await acquire(lock, 0, 5, exclusive=False)
    alone.cancel()
    assert await started(late)
    lock.release(first)
    lock.release(late.result())
    assert await started(await acquire(lock, 0, 99, exclusive=True))


async def test_conflict_that_ends_while_another_is_waited_for_is_not_waited_for_again():
    lock = RangeLock()
    first, second = lock.try_share(0, 10), lock.try_share(0, 10)
    alone = await acquire(lock, 0, 10, exclusive=True)
    lock.release(second)
    lock.release(first)
    assert await started(alone)
