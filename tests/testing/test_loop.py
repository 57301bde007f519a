"""The simulated loop: what asyncio promises holds on it, and its seed decides the rest."""

import asyncio
import gc

import pytest

from blkxact.runtime.clock import Clock
from blkxact.testing.loop import (
    DeadlockError,
    LeftBehindError,
    LivelockError,
    SimulatedLoop,
    run_simulated,
)

SEEDS = range(20)


def order_of(seed, **options):
    """The order in which ten tasks, three turns each, came to run."""
    seen = []

    async def worker(number):
        for _ in range(3):
            await asyncio.sleep(0)
            seen.append(number)

    async def main():
        await asyncio.gather(*map(worker, range(10)))

    run_simulated(main(), seed, **options)
    return seen


def test_run_with_same_seed_is_the_same():
    assert order_of(7) == order_of(7)


def test_run_with_other_seeds_differs():
    assert len({tuple(order_of(seed)) for seed in SEEDS}) == len(SEEDS)


def test_run_with_order_kept_is_first_come_first_served():
    assert order_of(1, keep_order=True) == list(range(10)) * 3


def test_sleep_of_a_year_takes_no_time():
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(365 * 86400)
        return loop.time() - before

    assert run_simulated(main()) == pytest.approx(365 * 86400, abs=1e-3)


def test_timers_fire_in_the_order_of_their_times():
    seen = []

    async def worker(seconds):
        await asyncio.sleep(seconds)
        seen.append(seconds)

    async def main():
        await asyncio.gather(*(worker(s) for s in (3, 1, 2, 0.5)))

    for seed in SEEDS:
        seen.clear()
        run_simulated(main(), seed)
        assert seen == [0.5, 1, 2, 3]


def test_spinning_task_does_not_hold_time_back():
    async def main():
        timer = asyncio.create_task(asyncio.sleep(0.001))
        turns = 0
        while not timer.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert run_simulated(main()) > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_lock_is_held_by_one_task_at_a_time(seed):
    async def main():
        lock = asyncio.Lock()
        holders, total = 0, 0

        async def worker():
            nonlocal holders, total
            async with lock:
                holders += 1
                assert holders == 1
                await asyncio.sleep(0)
                holders -= 1
                total += 1

        await asyncio.gather(*(worker() for _ in range(10)))
        return total

    assert run_simulated(main(), seed) == 10


@pytest.mark.parametrize("seed", SEEDS)
def test_primitives_of_asyncio_work(seed):
    async def main():
        event, queue, condition = asyncio.Event(), asyncio.Queue(2), asyncio.Condition()
        got = []

        async def consumer():
            await event.wait()
            while (item := await queue.get()) is not None:
                got.append(item)
            async with condition:
                condition.notify_all()

        async with asyncio.TaskGroup() as group:
            group.create_task(consumer())
            async with condition:
                event.set()
                for item in (1, 2, 3, 4, None):
                    await queue.put(item)
                await condition.wait()
        return got

    assert run_simulated(main(), seed) == [1, 2, 3, 4]


@pytest.mark.parametrize("seed", SEEDS)
def test_timeouts_and_cancellation_work(seed):
    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().create_future()
        assert await asyncio.wait_for(asyncio.sleep(1, "in time"), 5) == "in time"
        task = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_simulated(main(), seed)


def test_call_in_executor_runs_later_and_gives_its_result():
    async def main():
        seen = []
        future = asyncio.get_running_loop().run_in_executor(None, seen.append, 1)
        assert not seen
        await future
        assert await asyncio.to_thread(sum, [1, 2]) == 3
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return seen

    assert run_simulated(main()) == [1]


def test_cancelled_call_in_executor_may_or_may_not_have_run():
    async def main():
        seen = []
        asyncio.get_running_loop().run_in_executor(None, seen.append, 1).cancel()
        await asyncio.sleep(1)
        return len(seen)

    assert {run_simulated(main(), seed) for seed in SEEDS} == {0, 1}


def test_deadlock_is_told_with_seed_and_place():
    async def stuck():
        await asyncio.Event().wait()

    async def main():
        await asyncio.create_task(stuck(), name="the stuck one")

    with pytest.raises(DeadlockError) as caught:
        run_simulated(main(), 42)
    text = str(caught.value)
    assert "seed 42" in text
    assert "the stuck one waits in Event.wait" in text


def test_endless_run_is_stopped():
    async def main():
        while True:  # noqa: ASYNC110 - spinning is what is tested
            await asyncio.sleep(1)

    with pytest.raises(LivelockError, match="no end after"):
        run_simulated(main(), max_turns=1000)


def test_task_left_behind_is_a_failure():
    ended = []

    async def background():
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(True)

    async def main():
        task = asyncio.create_task(background(), name="background")
        await asyncio.sleep(0.1)
        return task

    with pytest.raises(LeftBehindError, match="background waits in"):
        run_simulated(main())
    assert ended


def test_exception_that_nobody_takes_is_a_failure():
    async def fail():
        raise ValueError("nobody looks")

    async def main():
        task = asyncio.create_task(fail())
        await asyncio.sleep(1)
        del task
        gc.collect()

    with pytest.raises(ExceptionGroup) as caught:
        run_simulated(main())
    assert "nobody looks" in str(caught.value.exceptions[0])


def test_failure_is_raised_with_the_seed():
    async def main():
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is") as caught:
        run_simulated(main(), 99)
    assert caught.value.__notes__ == ["simulated with seed 99"]


def test_clock_tells_virtual_time():
    async def main(loop):
        clock = loop.clock
        checked: Clock = clock
        before, real = checked.monotonic(), checked.realtime_us()
        await clock.sleep(1.5)
        assert clock.monotonic() - before == pytest.approx(1.5, abs=1e-3)
        assert clock.realtime_us() - real == pytest.approx(1_500_000, abs=1000)

    run_simulated(main)


def test_world_outside_is_refused():
    async def main():
        await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, "no/such")

    with pytest.raises(NotImplementedError):
        run_simulated(main())


def test_loop_serves_again_after_it_was_stopped():
    loop = SimulatedLoop(3)
    try:
        assert loop.run_until_complete(asyncio.sleep(1, "one")) == "one"
        assert loop.run_until_complete(asyncio.sleep(1, "two")) == "two"
    finally:
        loop.close()


async def test_simulation_inside_of_a_running_loop_is_refused():
    async def main():
        pass

    with pytest.raises(RuntimeError, match="inside of a running event loop"):
        run_simulated(main())
