"""A monitor whose chardev connects, and connects again."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from blkxact.commands import Dispatcher
from blkxact.machine.options import ChardevSocket, UnixAddress
from blkxact.monitor.chardevs import open_chardev
from blkxact.monitor.reconnecting import Reconnecting
from blkxact.qmp_server import QmpServer
from blkxact.testing.waiting import until, until_idle
from tests.emulator import Emulator
from tests.nbd.served import ManualClock

PERIOD_S = 3
GREETING = b'{"QMP": '


class Monitor:
    """An emulator with a monitor that connects to ``path``."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "client")
        self.clock = ManualClock()
        emulator = Emulator()
        self.server = QmpServer(
            Dispatcher(emulator.layer), emulator.layer.events, self.clock, package=""
        )
        self.reconnecting: Reconnecting

    async def start(self, **how: Any) -> None:
        chardev = ChardevSocket("c", UnixAddress(self.path), server=False, reconnect_s=PERIOD_S)
        endpoint = await open_chardev(chardev, print, self.clock)
        assert endpoint.reconnecting is not None
        self.reconnecting = endpoint.reconnecting
        self.server.keep_connected(self.reconnecting, endpoint.address, **how)

    def listen(self) -> socket.socket:
        there = socket.socket(socket.AF_UNIX)
        there.bind(self.path)
        there.listen()
        there.setblocking(False)
        return there


@pytest.fixture
async def monitor(image_dir: Path) -> AsyncIterator[Monitor]:
    monitor = Monitor(image_dir)
    yield monitor
    await monitor.server.close()
    assert not monitor.server.statistics().clients


async def accept(there: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    client, _ = await asyncio.get_running_loop().sock_accept(there)
    return await asyncio.open_unix_connection(sock=client)


async def execute(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], command: str
) -> dict[str, Any]:
    reader, writer = streams
    writer.write(json.dumps({"execute": command}).encode())
    reply: dict[str, Any] = json.loads(await reader.readline())
    return reply


async def test_client_that_comes_later_is_connected_and_the_failure_reported_once(
    monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await monitor.start()
    for _ in range(3):
        await until(lambda: monitor.clock.sleepers == 1)
        monitor.clock.advance(PERIOD_S)
    await until(lambda: monitor.clock.sleepers == 1)
    assert not monitor.reconnecting.is_connected
    with monitor.listen() as there:
        monitor.clock.advance(PERIOD_S - 1)
        await until_idle()
        assert not monitor.reconnecting.is_connected
        monitor.clock.advance(1)
        streams = await accept(there)
        assert (await streams[0].readline()).startswith(GREETING)
        assert await execute(streams, "qmp_capabilities") == {"return": {}}
        await until(lambda: monitor.reconnecting.is_connected)
        streams[1].close()
    text = f"Failed to connect to '{monitor.path}': No such file or directory"
    expected = [f"Unable to connect character device c: {text}"]
    assert [record.getMessage() for record in caplog.records] == expected


async def test_lost_client_is_connected_again_after_a_period_with_a_new_session(
    monitor: Monitor,
) -> None:
    with monitor.listen() as there:
        await monitor.start()
        for _ in range(2):
            streams = await accept(there)
            assert (await streams[0].readline()).startswith(GREETING)
            refused = await execute(streams, "query-status")
            assert refused["error"]["class"] == "CommandNotFound"
            assert await execute(streams, "qmp_capabilities") == {"return": {}}
            streams[1].close()
            await until(lambda: not monitor.reconnecting.is_connected)
            await until(lambda: monitor.clock.sleepers == 1)
            monitor.clock.advance(PERIOD_S)


async def test_human_monitor_is_connected_too(monitor: Monitor) -> None:
    with monitor.listen() as there:
        await monitor.start(human=True)
        reader, writer = await accept(there)
        assert (await reader.readline()).startswith(b"QEMU 7.2")
        writer.close()


async def test_server_that_closes_connects_no_more(monitor: Monitor) -> None:
    await monitor.start()
    await until(lambda: monitor.clock.sleepers == 1)
    await monitor.server.close()
    with monitor.listen() as there:
        monitor.clock.advance(PERIOD_S)
        await until_idle()
        with pytest.raises(BlockingIOError):
            there.accept()
