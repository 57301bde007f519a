"""A client that is closed, or whose opening is cancelled, at any moment leaves nothing open."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from blkxact.drivers.nbd.channel import NbdChannel
from blkxact.drivers.nbd.client import NbdClient
from blkxact.nbd.protocol import Command
from blkxact.runtime.clock import Clock, SystemClock, within
from blkxact.testing.waiting import take_turns

TURNS = range(12)
"""Turns of the loop between a connection and the cancellation: enough to be done with it."""


class Server:
    """Makes connections when ``open`` is called, and knows which are not closed."""

    def __init__(self) -> None:
        self.opened = asyncio.get_running_loop().create_future()
        self.channels: list[Channel] = []

    async def connect(self) -> NbdChannel:
        await self.opened
        channel = Channel()
        self.channels.append(channel)
        return cast("NbdChannel", channel)

    def left_open(self) -> int:
        return sum(not channel.closed for channel in self.channels)


class Channel:
    """A connection that answers nothing."""

    is_lost = broken = closed = False

    async def request(self, *_: Any) -> None:
        await asyncio.get_running_loop().create_future()

    def abort(self) -> None:
        self.closed = True

    async def close(self, _: Clock) -> None:
        self.closed = True


@pytest.mark.parametrize("turns", TURNS)
async def test_client_that_is_closed_while_it_connects(turns: int) -> None:
    server = Server()
    client = NbdClient(server.connect, SystemClock(), reconnect_delay=60)
    request = asyncio.ensure_future(client.request(Command.FLUSH, 0, 0, 0))
    await take_turns(5)
    server.opened.set_result(None)
    await take_turns(turns)
    await client.close()
    assert server.left_open() == 0
    request.cancel()
    await asyncio.wait([request])


@pytest.mark.parametrize("timeout_s", [0, 60])
@pytest.mark.parametrize("turns", TURNS)
async def test_opening_that_is_cancelled(turns: int, timeout_s: float) -> None:
    server = Server()
    client = NbdClient(server.connect, SystemClock())
    opening = asyncio.ensure_future(client.open(timeout_s))
    await take_turns(5)
    server.opened.set_result(None)
    await take_turns(turns)
    opening.cancel()
    await asyncio.wait([opening])
    await client.close()
    assert server.left_open() == 0


@pytest.mark.parametrize("turns", TURNS)
async def test_opening_that_is_yanked(turns: int) -> None:
    server = Server()
    client = NbdClient(server.connect, SystemClock())
    opening = asyncio.ensure_future(client.open(60))
    await take_turns(5)
    server.opened.set_result(None)
    await take_turns(turns)
    client.yank()
    await asyncio.wait([opening])
    opening.cancelled() or opening.exception()
    await client.close()
    assert server.left_open() == 0


@pytest.mark.parametrize("turns", TURNS)
async def test_result_that_came_in_time_is_not_lost_when_the_caller_is_cancelled(
    turns: int,
) -> None:
    ready = asyncio.get_running_loop().create_future()
    made: list[str] = []
    kept: list[str] = []

    async def make() -> str:
        await ready
        made.append("it")
        return "it"

    async def wait() -> None:
        kept.append(await within(SystemClock(), 60, make()))

    waiting = asyncio.ensure_future(wait())
    await take_turns(5)
    ready.set_result(None)
    await take_turns(turns)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert made == kept
