"""A monitor's points: the connection is cut, and commands, replies and events are held, at each."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from blkxact.commands import Dispatcher
from blkxact.qmp_server import QmpServer
from blkxact.runtime.clock import SystemClock
from blkxact.storage.sockets import bind_unix
from blkxact.testing.faults import Fault, Faults, Record
from blkxact.testing.waiting import until
from tests.emulator import Emulator


class Monitor:
    """An emulator with a monitor, and a client."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "qmp")
        self.emulator = Emulator()
        self.layer = self.emulator.layer
        self.points = self.layer.points
        self.faults = Faults(self.points)
        self.server = QmpServer(
            Dispatcher(self.layer), self.layer.events, SystemClock(), package="", points=self.points
        )

    async def connect(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()
            await self.writer.wait_closed()
        self.reader, self.writer = await asyncio.open_unix_connection(self.path)
        assert "QMP" in await self.read()
        assert await self.execute("qmp_capabilities") == {"return": {}}

    async def read(self) -> dict[str, Any]:
        """Return the next message; {} at the end."""
        async with asyncio.timeout(20):
            return json.loads(await self.reader.readline() or b"{}")

    def send(self, command: str, **arguments: Any) -> None:
        self.writer.write(json.dumps({"execute": command, "arguments": arguments}).encode())

    async def execute(self, command: str, **arguments: Any) -> dict[str, Any]:
        self.send(command, **arguments)
        return await self.read()


@pytest.fixture
async def monitor(image_dir: Path) -> AsyncIterator[Monitor]:
    monitor = Monitor(image_dir)
    bound = bind_unix(monitor.path, 0o600)
    monitor.server.listen(f"unix:{monitor.path}", bound, path=monitor.path)
    yield monitor
    monitor.faults.clear()
    if hasattr(monitor, "writer"):
        monitor.writer.close()
    await monitor.server.close()
    await monitor.layer.shutdown()


GROUP = {"qom-type": "throttle-group", "id": "g"}


async def test_command_passes_its_points_in_order(monitor: Monitor) -> None:
    await monitor.connect()
    record = Record(monitor.points)
    await monitor.execute("stop")
    await monitor.read()
    record.stop()
    monitor.writer.close()
    assert [each.address for each in record.passings] == [
        "monitor.received stop",
        "command.execute stop",
        "event.emit STOP",
        "monitor.event STOP",
        "command.executed stop",
        "monitor.reply stop",
        "monitor.answered stop",
    ]


@pytest.mark.parametrize(
    ("point", "executed"),
    [("monitor.received", False), ("monitor.reply", True)],
)
async def test_connection_is_cut_before_or_after_the_command(
    monitor: Monitor, point: str, executed: bool
) -> None:
    await monitor.connect()
    monitor.faults.add(Fault(point, errno.ECONNRESET, {"command": "object-add"}))
    assert await monitor.execute("object-add", **GROUP) == {}
    assert ("g" in monitor.layer.objects) is executed
    await monitor.connect()
    assert ("error" in await monitor.execute("object-add", **GROUP)) is executed


async def test_connection_is_cut_before_an_event_and_what_came_before_is_sent(
    monitor: Monitor,
) -> None:
    await monitor.connect()
    monitor.faults.add(Fault("monitor.event", errno.ECONNRESET, {"event": "RESUME"}))
    await monitor.execute("stop")
    await monitor.read()
    assert await monitor.execute("cont") == {}
    assert monitor.layer.machine.running


async def test_connection_is_cut_before_the_greeting(monitor: Monitor) -> None:
    monitor.faults.add(Fault("monitor.connected", errno.ECONNRESET))
    reader, writer = await asyncio.open_unix_connection(monitor.path)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    await monitor.connect()


async def test_command_is_refused_where_a_listener_says_so(monitor: Monitor) -> None:
    await monitor.connect()
    monitor.faults.add(Fault("monitor.received", "not now", {"command": "stop"}))
    refused = {"error": {"class": "GenericError", "desc": "not now"}}
    assert await monitor.execute("stop") == refused
    assert monitor.layer.machine.running


async def test_event_that_is_held_holds_what_follows_it(monitor: Monitor) -> None:
    await monitor.connect()
    go = asyncio.Event()

    async def hold(_name: str, _facts: object) -> None:
        await go.wait()

    stop = monitor.points.listen("monitor.event", hold)
    monitor.send("stop")
    reading = asyncio.create_task(monitor.read())
    record = Record(monitor.points, "monitor.answered")
    await until(lambda: record.passings)
    assert not reading.done()
    stop()
    go.set()
    messages = [await reading, await monitor.read()]
    assert [message.get("event", "reply") for message in messages] == ["STOP", "reply"]
    record.stop()


async def test_reply_that_is_held_lets_events_pass(monitor: Monitor) -> None:
    await monitor.connect()
    go = asyncio.Event()

    async def hold(_name: str, _facts: object) -> None:
        await go.wait()

    stop = monitor.points.listen("monitor.reply", hold)
    monitor.send("stop")
    assert (await monitor.read())["event"] == "STOP"
    monitor.layer.emit("RESUME")
    assert (await monitor.read())["event"] == "RESUME"
    go.set()
    assert await monitor.read() == {"return": {}}
    stop()
