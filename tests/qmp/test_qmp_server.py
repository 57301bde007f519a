"""Sockets, clients, events and what happens to those who do not read."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError, QMPClient

from blkxact import qmp_connection, qmp_server
from blkxact.clock import SystemClock
from blkxact.counts import QmpStatistics
from blkxact.errors import QmpError
from blkxact.events import EventSink
from blkxact.qmp.session import Session
from blkxact.qmp_connection import QmpConnection
from blkxact.qmp_server import QmpServer
from blkxact.testing.objects import alive
from blkxact.testing.waiting import until, until_idle

from .talk import CAPABILITIES, CAPABILITIES_OOB, ToyDispatcher


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def put_file(path: str) -> None:
    Path(path).unlink(missing_ok=True)
    Path(path).write_text("precious")


def holds_file(path: str) -> bool:
    return Path(path).is_file() and Path(path).read_text() == "precious"


def exists(path: str) -> bool:
    return Path(path).exists()


class Client:
    """A raw client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> dict[str, Any]:
        line = await self.reader.readline()
        assert line.endswith(b"\r\n"), line
        message: dict[str, Any] = json.loads(line)
        return message

    async def read_until(self, name: str) -> list[dict[str, Any]]:
        """Return messages up to the first with such a member."""
        messages = [await self.read()]
        while name not in messages[-1]:
            messages.append(await self.read())
        return messages

    async def say(self, data: bytes) -> dict[str, Any]:
        self.writer.write(data)
        return await self.read()

    def send(self, name: str, **members: Any) -> None:
        self.writer.write(json.dumps({"execute": name, **members}).encode())

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class House:
    """A server with a toy dispatcher, and its clients."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "qmp")
        self.dispatcher = ToyDispatcher()
        clock = SystemClock()
        self.events = EventSink(clock)
        self.server = QmpServer(self.dispatcher, self.events, clock, package="toy")
        self.clients: list[Client] = []

    async def client(
        self, path: str | None = None, negotiate: bytes | None = CAPABILITIES, limit: int = 1 << 20
    ) -> Client:
        client = Client(*await asyncio.open_unix_connection(path or self.path, limit=limit))
        self.clients.append(client)
        assert "QMP" in await client.read()
        if negotiate is not None:
            assert await client.say(negotiate) == {"return": {}}
        return client

    async def until_waiting(self, count: int) -> None:
        """Return when so many ``wait`` commands have begun."""
        await until(lambda: len(self.dispatcher.waiting) >= count)


@pytest.fixture
async def house(image_dir: Path) -> AsyncIterator[House]:
    house = House(image_dir)
    await house.server.listen_unix(house.path)
    yield house
    for future in house.dispatcher.waiting:
        if not future.done():
            future.set_result(None)
    for client in house.clients:
        await client.close()
    await house.server.close()


# Conversation


async def test_client_is_greeted_and_served(house: House) -> None:
    client = await house.client()
    client.send("echo", arguments={"x": 1}, id=7)
    assert await client.read() == {"return": {"x": 1}, "id": 7}


async def test_many_requests_in_one_write_are_answered_in_order(house: House) -> None:
    client = await house.client()
    count = 10 * qmp_connection.MESSAGES_PER_TURN + 1
    client.writer.write(b"".join(b'{"execute":"query-name","id":%d}' % n for n in range(count)))
    assert [(await client.read())["id"] for _ in range(count)] == [*range(count)]


async def test_message_larger_than_a_read_is_served(house: House) -> None:
    client = await house.client()
    text = "x" * (3 * qmp_connection.READ_SIZE)
    client.send("echo", arguments={"text": text})
    assert await client.read() == {"return": {"text": text}}


async def test_refusal_is_sent_and_the_session_goes_on(house: House) -> None:
    client = await house.client()
    reply = await client.say(b'{"execute": "fail", "id": 1}')
    assert reply == {"id": 1, "error": {"class": "GenericError", "desc": "refused"}}
    assert "error" in await client.say(b"@\n")
    assert await client.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_command_with_a_bug_is_logged_and_the_session_goes_on(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    client = await house.client()
    reply = await client.say(b'{"execute": "break"}')
    assert reply["error"]["desc"] == "Internal error in break: ZeroDivisionError()"
    assert "ZeroDivisionError" in caplog.text
    assert await client.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_command_that_waits_answers_later(house: House) -> None:
    client = await house.client()
    client.send("wait", id=1)
    client.send("query-name", id=2)
    await house.until_waiting(1)
    house.dispatcher.waiting[0].set_result({"done": True})
    assert await client.read() == {"return": {"done": True}, "id": 1}
    assert await client.read() == {"return": {}, "id": 2}


async def test_command_that_waits_may_be_refused(house: House) -> None:
    client = await house.client()
    for number, (error, text) in enumerate(
        [(QmpError("late"), "late"), (KeyError(1), "Internal error in wait: KeyError(1)")]
    ):
        client.send("wait")
        await house.until_waiting(number + 1)
        house.dispatcher.waiting[number].set_exception(error)
        assert (await client.read())["error"]["desc"] == text


async def test_out_of_band_command_overtakes_one_that_waits(house: House) -> None:
    client = await house.client(negotiate=CAPABILITIES_OOB)
    client.send("wait", id=1)
    client.send("query-name", id=2)
    client.writer.write(b'{"exec-oob": "query-yank", "id": 3}')
    assert (await client.read())["id"] == 3
    house.dispatcher.waiting[0].set_result(None)
    assert [(await client.read())["id"] for _ in range(2)] == [1, 2]


async def test_clients_negotiate_each_for_themselves(house: House) -> None:
    one = await house.client()
    two = await house.client(negotiate=None)
    assert "error" in await two.say(b'{"execute": "query-name"}')
    assert await one.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_client_that_waits_does_not_hold_up_another(house: House) -> None:
    one, two = await house.client(), await house.client()
    one.send("wait")
    await house.until_waiting(1)
    assert await two.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_client_of_the_qemu_qmp_package_is_served(house: House) -> None:
    client = QMPClient("test")
    await client.connect(house.path)
    assert await client.execute("echo", {"x": [1, "\u00e9"]}) == {"x": [1, "\u00e9"]}
    with pytest.raises(ExecuteError, match="refused"):
        await client.execute("fail")
    with client.listener("HELLO") as listener:
        house.events.emit("HELLO", {"a": 1})
        assert (await listener.get())["data"] == {"a": 1}
    results = await asyncio.gather(*(client.execute("echo", {"n": n}) for n in range(50)))
    assert results == [{"n": n} for n in range(50)]
    await client.disconnect()


# Events


async def test_event_reaches_every_client_that_has_negotiated(house: House) -> None:
    one, two = await house.client(), await house.client()
    three = await house.client(negotiate=None)
    house.events.emit("HELLO", {"a": 1})
    for client in (one, two):
        event = await client.read()
        assert event["event"] == "HELLO"
        assert event["data"] == {"a": 1}
        assert set(event["timestamp"]) == {"seconds", "microseconds"}
    assert "return" in await three.say(CAPABILITIES)


async def test_event_raised_by_a_command_goes_out_before_its_reply(house: House) -> None:
    one, two = await house.client(), await house.client()
    house.dispatcher.on_execute = lambda name: house.events.emit("HELLO", {"by": name})
    one.send("query-name")
    one.send("echo", arguments={})
    messages = await one.read_until("return") + await one.read_until("return")
    assert [m["data"]["by"] if "data" in m else "reply" for m in messages] == [
        *("query-name", "reply"),
        *("echo", "reply"),
    ]
    assert [(await two.read())["data"]["by"] for _ in range(2)] == ["query-name", "echo"]


async def test_events_keep_their_order(house: House) -> None:
    client = await house.client()
    for number in range(1000):
        house.events.emit("N", {"n": number})
    assert [(await client.read())["data"]["n"] for _ in range(1000)] == [*range(1000)]


async def test_client_that_reads_no_events_is_disconnected_and_others_are_not(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qmp_connection, "MAX_UNREAD_OUTPUT", 1 << 20)
    slow = await house.client(limit=1024)
    good = await house.client()
    for number in range(200):
        house.events.emit("BIG", {"n": number, "text": "x" * 20_000})
        assert (await good.read())["data"]["n"] == number
        assert house.server.statistics().clients[0].unread <= 1 << 20
    assert "does not read its events: disconnected" in caplog.text
    assert len(house.server.statistics().clients) == 1
    # What was sent before is still there to be read; then the stream ends.
    while await slow.reader.read(1 << 16):
        pass
    assert await good.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_burst_of_events_without_a_turn_of_the_loop_is_bounded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_connection, "MAX_UNREAD_OUTPUT", 1 << 20)
    await house.client()
    for _ in range(200):
        house.events.emit("BIG", {"text": "x" * 20_000})
        assert house.server.statistics().clients[0].unread <= 1 << 20


async def test_client_that_reads_no_replies_is_given_no_more_to_do(house: House) -> None:
    client = await house.client(limit=1024)
    message = json.dumps({"execute": "echo", "arguments": {"text": "x" * 20_000}}).encode()
    count = 600

    async def write() -> None:
        for _ in range(count):
            client.writer.write(message)
            await client.writer.drain()

    writing = asyncio.create_task(write())
    await until_idle()
    executed = len(house.dispatcher.executed)
    assert executed < count / 2
    assert house.server.statistics().clients[0].unread < 2 * qmp_connection.WRITE_HIGH_WATER
    # It reads after all, and all is answered.
    size = len(json.dumps({"return": json.loads(message)["arguments"]})) + 2
    await client.reader.readexactly(size * count)
    await writing


# Clients that want much


LONG_MESSAGE = b'{"execute": "echo", "arguments": {"a": [' + b"1," * 30_000 + b'"\\u0041"]}}'


async def test_long_messages_of_many_clients_do_not_hold_up_another(house: House) -> None:
    good = await house.client()
    greedy = [await house.client() for _ in range(5)]

    def all_parsing() -> bool:
        return all(one.parsing for one in house.server.statistics().clients[1:])

    for client in greedy:
        client.writer.write(LONG_MESSAGE)
    await until(all_parsing)
    # One piece is done in each turn of the loop, whosever it is.
    for _ in range(20):
        assert await good.say(b'{"execute": "query-name"}') == {"return": {}}
    assert all_parsing()
    for client in greedy:
        assert (await client.read())["return"] == {"a": [1] * 30_000 + ["A"]}


async def test_client_that_takes_most_is_disconnected_when_all_take_too_much(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qmp_server, "MAX_HELD", 3 << 20)
    modest = [await house.client() for _ in range(3)]
    for client in modest:
        client.writer.write(b'{"execute": "echo", "arguments": {"a": "' + b"x" * (700 << 10))
        await client.writer.drain()
    greedy = await house.client()
    greedy.writer.write(b'{"execute": "echo", "arguments": {"a": "' + b"x" * (2 << 20))
    with contextlib.suppress(ConnectionResetError):
        assert await greedy.reader.read() == b""
    house.clients.remove(greedy)
    greedy.writer.transport.abort()
    assert "disconnected: it takes" in caplog.text
    for client in modest:
        client.writer.write(b'"}}')
        assert len((await client.read())["return"]["a"]) == 700 << 10
    assert {one.held for one in house.server.statistics().clients} == {0}
    assert house.server.statistics().held == 0


async def test_requests_that_wait_and_replies_that_are_not_read_count(house: House) -> None:
    client = await house.client(negotiate=CAPABILITIES_OOB, limit=1024)

    def held() -> int:
        (only,) = house.server.statistics().clients
        return only.held

    client.send("wait", arguments={"a": "x" * 200_000})
    await until(lambda: held() >= 200_000)
    client.send("echo", arguments={"a": "x" * 600_000})
    await until(lambda: held() >= 800_000)
    house.dispatcher.waiting[0].set_result(None)
    # The reply is in the transport's hands now, and in the socket's.
    await until(lambda: len(house.dispatcher.executed) == 2)
    assert 200_000 <= held() < 800_000
    while (await client.reader.read(1 << 16))[-1:] != b"\n":
        pass
    await until(lambda: held() == 0)


async def test_events_that_are_not_read_count(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qmp_server, "MAX_HELD", 1 << 20)
    good = await house.client()
    for _ in range(4):
        await house.client(limit=1024)
    for number in range(200):
        house.events.emit("BIG", {"n": number, "text": "x" * 20_000})
        assert (await good.read())["data"]["n"] == number
        assert house.server.statistics().held <= 1 << 20
    assert "disconnected: it takes" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        b'{"execute": "echo", "arguments": {"a": "' + b"x" * 500_000,
        b"{'a': [1,,]}{'b': @}" * 100,
        b"{'a': [" + b"1," * 30_000 + b",]}",
        b'{"execute": "nope"}{"execute": "fail"}{"execute": "wait"}',
        LONG_MESSAGE[:-9],
    ],
    ids=lambda data: repr(data[:20]),
)
async def test_client_that_left_leaves_no_object(house: House, data: bytes) -> None:
    gc.collect()
    gc.disable()  # a cycle would keep its memory until the next collection
    try:
        client = await house.client()
        before = alive(QmpConnection, Session)
        assert before >= 2
        client.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await client.writer.drain()
        await until_idle()
        client.writer.transport.abort()
        for future in house.dispatcher.waiting:
            future.set_result(None)
        await until(lambda: alive(QmpConnection, Session) == before - 2)
        assert not house.server.statistics().clients
    finally:
        gc.enable()
    house.dispatcher.waiting.clear()


# Leaving


async def test_transport_of_a_foreign_class_will_do(house: House) -> None:
    class Transport:
        """As uvloop's: asyncio's methods, not its class."""

        def __init__(self) -> None:
            self.written = b""

        def write(self, data: bytes) -> None:
            self.written += data

        def set_write_buffer_limits(self, high: int) -> None:
            self.high = high

        def is_closing(self) -> bool:
            return False

        def get_write_buffer_size(self) -> int:
            return 0

        def abort(self) -> None:
            connection.connection_lost(None)

        close = abort

    connection = qmp_connection.QmpConnection(house.server, "here", pretty=False)
    transport = Transport()
    connection.connection_made(transport)
    assert b"QMP" in transport.written


async def test_client_that_closed_its_side_gets_its_answers(house: House) -> None:
    client = await house.client()
    client.send("wait", id=1)
    client.send("query-name", id=2)
    client.writer.write_eof()
    await house.until_waiting(1)
    house.dispatcher.waiting[0].set_result(None)
    assert [(await client.read())["id"] for _ in range(2)] == [1, 2]
    assert await client.reader.read() == b""


async def test_command_goes_on_when_its_client_left(house: House) -> None:
    client = await house.client(negotiate=CAPABILITIES_OOB)
    client.send("wait")
    await house.until_waiting(1)
    client.writer.transport.abort()
    house.events.emit("HELLO")
    while house.server.statistics().clients:
        house.events.emit("HELLO")
        await asyncio.sleep(0)
    assert not house.dispatcher.waiting[0].done()
    house.dispatcher.waiting[0].set_result(None)
    await until_idle()


async def test_closing_sends_what_is_due_and_removes_the_socket(house: House) -> None:
    client = await house.client()
    client.send("wait", id=1)
    await house.until_waiting(1)
    closing = asyncio.create_task(house.server.close())
    await asyncio.sleep(0)
    client.send("query-name", id="too late")
    house.events.emit("SHUTDOWN")
    house.dispatcher.waiting[0].set_result(None)
    assert (await client.read())["event"] == "SHUTDOWN"
    assert (await client.read())["id"] == 1
    await closing
    assert b"too late" not in await client.reader.read()
    assert not exists(house.path)
    assert house.server.addresses == []


async def test_closing_from_within_a_command_does_not_wait_for_itself(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await house.client()

    async def quit_(_future: Any) -> Any:
        await house.server.close()
        return {}

    monkeypatch.setattr(house.dispatcher, "_wait", quit_)
    client.send("wait")
    assert await client.reader.read() == b""


async def test_closing_gives_up_on_what_does_not_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_server, "CLOSE_GRACE_S", 0.01)
    client = await house.client(limit=1024)
    stuck = await house.client()
    stuck.send("wait")
    await house.until_waiting(1)
    for _ in range(100):
        house.events.emit("BIG", {"text": "x" * 20_000})
    await house.server.close()
    assert house.dispatcher.waiting[0].cancelled()
    assert house.server.statistics() == QmpStatistics()
    client.writer.transport.abort()


async def test_client_too_many_waits_until_another_leaves(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_server, "MAX_CLIENTS", 1)
    one = await house.client()
    reader, writer = await asyncio.open_unix_connection(house.path)
    for _ in range(5):
        assert await one.say(b'{"execute": "query-name"}') == {"return": {}}
    assert len(house.server.statistics().clients) == 1
    one.writer.transport.abort()
    assert b"QMP" in await reader.readline()
    writer.close()


# Addresses


async def test_socket_is_for_its_owner_only_whatever_the_umask(house: House) -> None:
    assert mode_of(house.path) == 0o600
    shared = house.path + "2"
    umask = os.umask(0o077)
    try:
        await house.server.listen_unix(shared, mode=0o660)
    finally:
        os.umask(umask)
    assert mode_of(shared) == 0o660


async def test_monitors_at_several_addresses_serve_the_same(house: House) -> None:
    await house.server.listen_unix(house.path + "2")
    await house.server.listen_tcp("127.0.0.1", 0)
    assert house.server.addresses[:2] == [f"unix:{house.path}", f"unix:{house.path}2"]
    host, port = house.server.addresses[2].removeprefix("tcp:").split(":")
    one = await house.client()
    two = await house.client(house.path + "2")
    three = Client(*await asyncio.open_connection(host, int(port)))
    house.clients.append(three)
    await three.read()
    await three.say(CAPABILITIES)
    house.events.emit("HELLO")
    for client in (one, two, three):
        assert (await client.read())["event"] == "HELLO"


async def test_pretty_monitor_spreads_its_output(house: House) -> None:
    path = house.path + "2"
    await house.server.listen_unix(path, pretty=True)
    reader, writer = await asyncio.open_unix_connection(path)
    house.clients.append(Client(reader, writer))
    assert json.loads(await reader.readuntil(b"\r\n}\r\n"))["QMP"]
    writer.write(CAPABILITIES)
    assert await reader.readuntil(b"\r\n}\r\n") == b'{\r\n    "return": {\r\n    }\r\n}\r\n'
    house.events.emit("HELLO", {"a": 1})
    assert json.loads(await reader.readuntil(b"\r\n}\r\n"))["data"] == {"a": 1}


async def test_stale_socket_is_replaced(house: House) -> None:
    path = house.path + "2"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    await house.server.listen_unix(path)
    client = await house.client(path)
    assert await client.say(b'{"execute": "query-name"}') == {"return": {}}


@pytest.mark.parametrize("kind", ["live", "file", "directory", "missing"])
async def test_address_that_is_not_free_is_refused_and_left_alone(house: House, kind: str) -> None:
    path = house.path + "2"
    if kind == "live":
        await house.server.listen_unix(path)
    elif kind == "file":
        put_file(path)
    elif kind == "directory":
        os.mkdir(path)  # noqa: PTH102 - the paths here are strings
    else:
        path += "/qmp"
    text = "No such file or directory" if kind == "missing" else "Address already in use"
    with pytest.raises(QmpError, match=f"Failed to bind socket to {path}: {text}"):
        await house.server.listen_unix(path)
    if kind == "file":
        assert holds_file(path)
    if kind == "live":
        await house.client(path)


async def test_socket_replaced_by_another_is_not_removed(house: House) -> None:
    put_file(house.path)
    await house.server.close()
    assert holds_file(house.path)


async def test_path_too_long_for_a_socket_is_refused(house: House) -> None:
    path = house.path + "x" * 108
    with pytest.raises(QmpError, match=r"UNIX socket path '.*' is too long"):
        await house.server.listen_unix(path)


async def test_tcp_beyond_loopback_is_refused(house: House) -> None:
    with pytest.raises(QmpError, match=r"'0\.0\.0\.0' is not a loopback address"):
        await house.server.listen_tcp("0.0.0.0", 0)


async def test_tcp_port_in_use_is_refused(house: House) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(QmpError, match="Address already in use"):
            await house.server.listen_tcp("127.0.0.1", other.getsockname()[1])


async def test_listening_with_wait_returns_with_the_first_client(house: House) -> None:
    path = house.path + "2"
    listening = asyncio.create_task(house.server.listen_unix(path, wait=True))
    await until(lambda: exists(path))
    await until_idle()
    assert not listening.done()
    await house.client(path)
    await listening


async def test_client_that_listens_is_connected_to(house: House) -> None:
    clients: asyncio.Queue[Client] = asyncio.Queue()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.put_nowait(Client(reader, writer))

    unix = await asyncio.start_unix_server(connected, house.path + "2")
    tcp = await asyncio.start_server(connected, "127.0.0.1", 0)
    await house.server.connect_unix(house.path + "2")
    await house.server.connect_tcp("127.0.0.1", tcp.sockets[0].getsockname()[1])
    for _ in range(2):
        client = await clients.get()
        house.clients.append(client)
        assert "QMP" in await client.read()
        assert await client.say(CAPABILITIES) == {"return": {}}
    unix.close()
    tcp.close()


async def test_client_that_does_not_listen_is_an_error(house: House) -> None:
    path = house.path + "2"
    with pytest.raises(QmpError, match=f"Failed to connect to '{path}': No such file or directory"):
        await house.server.connect_unix(path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(QmpError, match=f"Failed to connect to '127.0.0.1:{port}': Connection"):
            await house.server.connect_tcp("127.0.0.1", port)


async def test_socket_passed_in_is_served(house: House) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    await house.server.accept_socket(ours)
    client = Client(*await asyncio.open_unix_connection(sock=theirs))
    house.clients.append(client)
    assert "QMP" in await client.read()
    assert await client.say(CAPABILITIES) == {"return": {}}
