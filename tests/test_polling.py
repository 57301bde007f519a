"""The loop polls while requests follow each other closely, and not otherwise."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from blkxact.runtime.polling import FIRST_POLL_S, MAX_POLL_S, PollingSelector, polling_loop

US = 1e-6
READY: Any = [("key", selectors.EVENT_READ)]


class World:
    """A clock, and a system whose next event comes at ``event_at``; to look takes 1 µs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 0.0
        self.event_at = 0.0
        self.looks = 0
        """How often it was looked without a wait."""
        self.sleeps: list[float | None] = []
        monkeypatch.setattr(selectors.DefaultSelector, "select", self._select)
        self.selector = PollingSelector()
        self.selector.now = lambda: self.time

    def _select(self, timeout: float | None = None) -> Any:
        if timeout == 0:
            self.looks += 1
            self.time += US
            return READY if self.time >= self.event_at else []
        self.sleeps.append(timeout)
        end = self.event_at if timeout is None else min(self.event_at, self.time + timeout)
        self.time = max(self.time, end)
        return READY if self.time >= self.event_at else []

    def wait(self, seconds: float, timeout: float | None = None) -> bool:
        """Wait for an event that comes after ``seconds``; return whether the loop slept."""
        slept = len(self.sleeps)
        self.event_at = self.time + seconds
        self.selector.select(timeout)
        return len(self.sleeps) > slept


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(monkeypatch)
    yield made
    made.selector.close()


def test_polling_grows_until_it_meets_the_next_event(world: World) -> None:
    slept = [world.wait(20 * US) for _ in range(8)]
    assert slept == [True, True, True, True, False, False, False, False]
    assert world.selector.poll_s == 8 * FIRST_POLL_S
    assert world.wait(2 * US) is False


def test_polling_grows_no_further_than_its_limit(world: World) -> None:
    for _ in range(20):
        world.wait(MAX_POLL_S - US)
    assert world.selector.poll_s == MAX_POLL_S


def test_one_long_wait_ends_the_polling(world: World) -> None:
    for _ in range(8):
        world.wait(20 * US)
    assert world.wait(1.0) is True
    assert world.selector.poll_s == 0
    world.looks = 0
    assert world.wait(1.0) is True
    assert world.looks == 0


def test_slow_clients_cost_nothing(world: World) -> None:
    for _ in range(1000):
        world.wait(1000 * US)
    assert world.looks == 0


def test_bursts_of_a_slow_client_cost_little(world: World) -> None:
    """Two requests, then a pause of 1 ms: less than 2 % of a processor."""
    for _ in range(1000):
        for _ in range(2):
            world.wait(10 * US)
        world.wait(1000 * US)
    assert world.looks * US < 0.02 * world.time


def test_busy_loop_is_not_held_up(world: World) -> None:
    """While callbacks are ready asyncio asks with a timeout of 0."""
    for _ in range(5):
        world.wait(20 * US)
    world.looks = 0
    before, world.event_at = world.time, world.time + 1
    assert world.selector.select(0) == []
    assert world.looks == 1
    assert world.time - before == pytest.approx(US)


def test_timer_is_not_late_for_the_polling(world: World) -> None:
    for _ in range(20):
        world.wait(MAX_POLL_S - US)
    before = world.time
    assert world.wait(1.0, timeout=10 * US) is False
    assert world.time - before <= 12 * US


async def exchange() -> int:
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    _, other = await asyncio.open_connection(sock=right)
    for _ in range(100):
        other.write(b"x")
        await reader.readexactly(1)
    for each in (writer, other):
        each.close()
        await each.wait_closed()
    return await asyncio.to_thread(lambda: 5)


@pytest.mark.parametrize("processors", [1, 2])
def test_loop_serves_sockets_timers_and_threads(
    monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    made: list[float] = []
    init = PollingSelector.__init__

    def count(selector: PollingSelector) -> None:
        init(selector)
        made.append(selector.poll_s)

    monkeypatch.setattr(PollingSelector, "__init__", count)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    with asyncio.Runner(loop_factory=polling_loop) as runner:
        assert runner.run(exchange()) == 5
    assert len(made) == processors - 1
