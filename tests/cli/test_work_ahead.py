"""``in_order``: results come in order, some work is done ahead, and failures in their turn."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from blkxact.image_tools.ahead import in_order


async def numbers(count, error=None):
    for number in range(count):
        yield number
    if error is not None:
        raise error


class Work:
    """Squares numbers; 3 is begun and not done before it is ``let_go``."""

    def __init__(self):
        self.begun, self.cancelled = [], []
        self.let_go = asyncio.Event()

    async def __call__(self, number):
        self.begun.append(number)
        if number == 3:
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled.append(number)
                raise
        return number * number


async def test_results_come_in_order_and_the_next_is_under_way():
    work, found = Work(), []
    work.let_go.set()
    async for number, square in in_order(numbers(6), work, ahead=2):
        await asyncio.sleep(0)
        assert work.begun == list(range(min(number + 3, 6)))
        found.append((number, square))
    assert found == [(number, number * number) for number in range(6)]


async def test_failure_of_the_items_comes_after_those_before_it():
    results = in_order(numbers(3, KeyError("items")), Work(), ahead=2)
    assert [(await anext(results))[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        await anext(results)


async def test_first_failure_of_the_work_is_raised_and_the_rest_is_cancelled():
    work = Work()

    async def fails(number):
        if number == 2:
            await asyncio.sleep(0)  # when 3 has begun
            raise KeyError(number)
        return await work(number)

    with pytest.raises(KeyError):
        async for _ in in_order(numbers(9, ValueError("later")), fails, ahead=2):
            pass
    assert work.cancelled == [3]


async def test_who_stops_leaves_nothing_under_way():
    work = Work()
    async with aclosing(in_order(numbers(9), work, ahead=2)) as results:
        async for number, _ in results:
            if number == 1:
                await asyncio.sleep(0)
                break
    assert work.begun == [0, 1, 2, 3]
    assert work.cancelled == [3]
