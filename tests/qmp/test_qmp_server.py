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

from blkxact import qmp_server
from blkxact.errors import QmpError
from blkxact.monitor import qmp_connection
from blkxact.monitor.qmp_connection import QmpConnection
from blkxact.qmp.session import Session
from blkxact.qmp_server import QmpServer
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.counts import QmpStatistics
from blkxact.runtime.events import EventSink
from blkxact.storage.sockets import address_text, bind_inet, bind_unix
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


def listen_unix(server: QmpServer, path: str, *, mode: int = 0o600, pretty: bool = False) -> None:
    """Let clients of a Unix socket in."""
    server.listen(f"unix:{path}", bind_unix(path, mode), path=path, pretty=pretty)


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


class Served:
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
async def served(image_dir: Path) -> AsyncIterator[Served]:
    served = Served(image_dir)
    listen_unix(served.server, served.path)
    yield served
    for future in served.dispatcher.waiting:
        if not future.done():
            future.set_result(None)
    for client in served.clients:
        await client.close()
    await served.server.close()


# Conversation


async def test_client_is_greeted_and_served(served: Served) -> None:
    client = await served.client()
    client.send("echo", arguments={"x": 1}, id=7)
    assert await client.read() == {"return": {"x": 1}, "id": 7}


async def test_many_requests_in_one_write_are_answered_in_order(served: Served) -> None:
    client = await served.client()
    count = 10 * qmp_connection.MESSAGES_PER_TURN + 1
    client.writer.write(b"".join(b'{"execute":"query-name","id":%d}' % n for n in range(count)))
    assert [(await client.read())["id"] for _ in range(count)] == [*range(count)]


async def test_message_larger_than_a_read_is_served(served: Served) -> None:
    client = await served.client()
    text = "x" * (3 * qmp_connection.READ_SIZE)
    client.send("echo", arguments={"text": text})
    assert await client.read() == {"return": {"text": text}}


async def test_refusal_is_sent_and_the_session_goes_on(served: Served) -> None:
    client = await served.client()
    reply = await client.say(b'{"execute": "fail", "id": 1}')
    assert reply == {"id": 1, "error": {"class": "GenericError", "desc": "refused"}}
    assert "error" in await client.say(b"@\n")
    assert await client.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_command_with_a_bug_is_logged_and_the_session_goes_on(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    client = await served.client()
    reply = await client.say(b'{"execute": "break"}')
    assert reply["error"]["desc"] == "Internal error in break: ZeroDivisionError()"
    assert "ZeroDivisionError" in caplog.text
    assert await client.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_command_that_waits_answers_later(served: Served) -> None:
    client = await served.client()
    client.send("wait", id=1)
    client.send("query-name", id=2)
    await served.until_waiting(1)
    served.dispatcher.waiting[0].set_result({"done": True})
    assert await client.read() == {"return": {"done": True}, "id": 1}
    assert await client.read() == {"return": {}, "id": 2}


async def test_command_that_waits_may_be_refused(served: Served) -> None:
    client = await served.client()
    for number, (error, text) in enumerate(
        [(QmpError("late"), "late"), (KeyError(1), "Internal error in wait: KeyError(1)")]
    ):
        client.send("wait")
        await served.until_waiting(number + 1)
        served.dispatcher.waiting[number].set_exception(error)
        assert (await client.read())["error"]["desc"] == text


async def test_out_of_band_command_overtakes_one_that_waits(served: Served) -> None:
    client = await served.client(negotiate=CAPABILITIES_OOB)
    client.send("wait", id=1)
    client.send("query-name", id=2)
    client.writer.write(b'{"exec-oob": "query-yank", "id": 3}')
    assert (await client.read())["id"] == 3
    served.dispatcher.waiting[0].set_result(None)
    assert [(await client.read())["id"] for _ in range(2)] == [1, 2]


async def test_clients_negotiate_each_for_themselves(served: Served) -> None:
    one = await served.client()
    two = await served.client(negotiate=None)
    assert "error" in await two.say(b'{"execute": "query-name"}')
    assert await one.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_client_that_waits_does_not_hold_up_another(served: Served) -> None:
    one, two = await served.client(), await served.client()
    one.send("wait")
    await served.until_waiting(1)
    assert await two.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_client_of_the_qemu_qmp_package_is_served(served: Served) -> None:
    client = QMPClient("test")
    await client.connect(served.path)
    assert await client.execute("echo", {"x": [1, "\u00e9"]}) == {"x": [1, "\u00e9"]}
    with pytest.raises(ExecuteError, match="refused"):
        await client.execute("fail")
    with client.listener("HELLO") as listener:
        served.events.emit("HELLO", {"a": 1})
        assert (await listener.get())["data"] == {"a": 1}
    results = await asyncio.gather(*(client.execute("echo", {"n": n}) for n in range(50)))
    assert results == [{"n": n} for n in range(50)]
    await client.disconnect()


# Events


async def test_event_reaches_every_client_that_has_negotiated(served: Served) -> None:
    one, two = await served.client(), await served.client()
    three = await served.client(negotiate=None)
    served.events.emit("HELLO", {"a": 1})
    for client in (one, two):
        event = await client.read()
        assert event["event"] == "HELLO"
        assert event["data"] == {"a": 1}
        assert set(event["timestamp"]) == {"seconds", "microseconds"}
    assert "return" in await three.say(CAPABILITIES)


async def test_event_raised_by_a_command_goes_out_before_its_reply(served: Served) -> None:
    one, two = await served.client(), await served.client()
    served.dispatcher.on_execute = lambda name: served.events.emit("HELLO", {"by": name})
    one.send("query-name")
    one.send("echo", arguments={})
    messages = await one.read_until("return") + await one.read_until("return")
    assert [m["data"]["by"] if "data" in m else "reply" for m in messages] == [
        *("query-name", "reply"),
        *("echo", "reply"),
    ]
    assert [(await two.read())["data"]["by"] for _ in range(2)] == ["query-name", "echo"]


async def test_events_keep_their_order(served: Served) -> None:
    client = await served.client()
    for number in range(1000):
        served.events.emit("N", {"n": number})
    assert [(await client.read())["data"]["n"] for _ in range(1000)] == [*range(1000)]


async def test_client_that_reads_no_events_is_disconnected_and_others_are_not(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qmp_connection, "MAX_UNREAD_OUTPUT", 1 << 20)
    slow = await served.client(limit=1024)
    good = await served.client()
    for number in range(200):
        served.events.emit("BIG", {"n": number, "text": "x" * 20_000})
        assert (await good.read())["data"]["n"] == number
        assert served.server.statistics().clients[0].unread <= 1 << 20
    assert "does not read its events: disconnected" in caplog.text
    assert len(served.server.statistics().clients) == 1
    # What was sent before is still there to be read; then the stream ends.
    while await slow.reader.read(1 << 16):
        pass
    assert await good.say(b'{"execute": "query-name"}') == {"return": {}}


async def test_burst_of_events_without_a_turn_of_the_loop_is_bounded(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_connection, "MAX_UNREAD_OUTPUT", 1 << 20)
    await served.client()
    for _ in range(200):
        served.events.emit("BIG", {"text": "x" * 20_000})
        assert served.server.statistics().clients[0].unread <= 1 << 20


async def test_client_that_is_behind_with_reading_is_served(served: Served) -> None:
    client = await served.client(limit=1024)
    message = json.dumps({"execute": "echo", "arguments": {"text": "x" * 20_000}}).encode()
    served.dispatcher.executed.clear()
    for _ in range(200):
        client.writer.write(message)
    await until(lambda: len(served.dispatcher.executed) == 200)
    await until_idle()
    assert served.server.statistics().clients[0].unread > 2 << 20


async def test_client_that_reads_no_replies_is_given_no_more_to_do(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_connection, "MAX_BEHIND", 1 << 20)
    client = await served.client(limit=1024)
    message = json.dumps({"execute": "echo", "arguments": {"text": "x" * 20_000}}).encode()
    count = 600

    async def write() -> None:
        for _ in range(count):
            client.writer.write(message)
            await client.writer.drain()

    writing = asyncio.create_task(write())
    await until_idle()
    executed = len(served.dispatcher.executed)
    assert executed < count / 2
    assert served.server.statistics().clients[0].unread < 2 << 20
    # It reads after all, and all is answered.
    size = len(json.dumps({"return": json.loads(message)["arguments"]})) + 2
    await client.reader.readexactly(size * count)
    await writing


# Clients that want much


LONG_MESSAGE = b'{"execute": "echo", "arguments": {"a": [' + b"1," * 30_000 + b'"\\u0041"]}}'


async def test_long_messages_of_many_clients_do_not_hold_up_another(served: Served) -> None:
    good = await served.client()
    greedy = [await served.client() for _ in range(5)]

    def all_parsing() -> bool:
        return all(one.parsing for one in served.server.statistics().clients[1:])

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
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qmp_server, "MAX_HELD", 3 << 20)
    modest = [await served.client() for _ in range(3)]
    for client in modest:
        client.writer.write(b'{"execute": "echo", "arguments": {"a": "' + b"x" * (700 << 10))
        await client.writer.drain()
    greedy = await served.client()
    greedy.writer.write(b'{"execute": "echo", "arguments": {"a": "' + b"x" * (2 << 20))
    with contextlib.suppress(ConnectionResetError):
        assert await greedy.reader.read() == b""
    served.clients.remove(greedy)
    greedy.writer.transport.abort()
    assert "disconnected: it takes" in caplog.text
    for client in modest:
        client.writer.write(b'"}}')
        assert len((await client.read())["return"]["a"]) == 700 << 10
    assert {one.held for one in served.server.statistics().clients} == {0}
    assert served.server.statistics().held == 0


async def test_requests_that_wait_and_replies_that_are_not_read_count(served: Served) -> None:
    client = await served.client(negotiate=CAPABILITIES_OOB, limit=1024)

    def held() -> int:
        (only,) = served.server.statistics().clients
        return only.held

    client.send("wait", arguments={"a": "x" * 200_000})
    await until(lambda: held() >= 200_000)
    client.send("echo", arguments={"a": "x" * 600_000})
    await until(lambda: held() >= 800_000)
    served.dispatcher.waiting[0].set_result(None)
    # The reply is in the transport's hands now, and in the socket's.
    await until(lambda: len(served.dispatcher.executed) == 2)
    assert 200_000 <= held() < 800_000
    while (await client.reader.read(1 << 16))[-1:] != b"\n":
        pass
    await until(lambda: held() == 0)


async def test_events_that_are_not_read_count(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qmp_server, "MAX_HELD", 1 << 20)
    good = await served.client()
    for _ in range(4):
        await served.client(limit=1024)
    for number in range(200):
        served.events.emit("BIG", {"n": number, "text": "x" * 20_000})
        assert (await good.read())["data"]["n"] == number
        assert served.server.statistics().held <= 1 << 20
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
async def test_client_that_left_leaves_no_object(served: Served, data: bytes) -> None:
    gc.collect()
    gc.disable()  # a cycle would keep its memory until the next collection
    try:
        client = await served.client()
        before = alive(QmpConnection, Session)
        assert before >= 2
        client.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await client.writer.drain()
        await until_idle()
        client.writer.transport.abort()
        for future in served.dispatcher.waiting:
            future.set_result(None)
        await until(lambda: alive(QmpConnection, Session) == before - 2)
        assert not served.server.statistics().clients
    finally:
        gc.enable()
    served.dispatcher.waiting.clear()


# Leaving


async def test_transport_of_a_foreign_class_will_do(served: Served) -> None:
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

    connection = qmp_connection.QmpConnection(served.server, "here", pretty=False)
    transport = Transport()
    connection.connection_made(transport)
    assert b"QMP" in transport.written


async def test_client_that_closed_its_side_gets_its_answers(served: Served) -> None:
    client = await served.client()
    client.send("wait", id=1)
    client.send("query-name", id=2)
    client.writer.write_eof()
    await served.until_waiting(1)
    served.dispatcher.waiting[0].set_result(None)
    assert [(await client.read())["id"] for _ in range(2)] == [1, 2]
    assert await client.reader.read() == b""


async def test_command_goes_on_when_its_client_left(served: Served) -> None:
    client = await served.client(negotiate=CAPABILITIES_OOB)
    client.send("wait")
    await served.until_waiting(1)
    client.writer.transport.abort()
    served.events.emit("HELLO")
    while served.server.statistics().clients:
        served.events.emit("HELLO")
        await asyncio.sleep(0)
    assert not served.dispatcher.waiting[0].done()
    served.dispatcher.waiting[0].set_result(None)
    await until_idle()


async def test_closing_sends_what_is_due_and_removes_the_socket(served: Served) -> None:
    client = await served.client()
    client.send("wait", id=1)
    await served.until_waiting(1)
    closing = asyncio.create_task(served.server.close())
    await asyncio.sleep(0)
    client.send("query-name", id="too late")
    served.events.emit("SHUTDOWN")
    served.dispatcher.waiting[0].set_result(None)
    assert (await client.read())["event"] == "SHUTDOWN"
    assert (await client.read())["id"] == 1
    await closing
    assert b"too late" not in await client.reader.read()
    assert not exists(served.path)
    assert served.server.addresses == []


async def test_closing_from_within_a_command_does_not_wait_for_itself(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await served.client()

    async def quit_(_future: Any) -> Any:
        await served.server.close()
        return {}

    monkeypatch.setattr(served.dispatcher, "_wait", quit_)
    client.send("wait")
    assert await client.reader.read() == b""


async def test_closing_gives_up_on_what_does_not_end(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_server, "CLOSE_GRACE_S", 0.01)
    client = await served.client(limit=1024)
    stuck = await served.client()
    stuck.send("wait")
    await served.until_waiting(1)
    for _ in range(100):
        served.events.emit("BIG", {"text": "x" * 20_000})
    await served.server.close()
    assert served.dispatcher.waiting[0].cancelled()
    assert served.server.statistics() == QmpStatistics()
    client.writer.transport.abort()


async def test_client_too_many_waits_until_another_leaves(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_server, "MAX_CLIENTS", 1)
    one = await served.client()
    reader, writer = await asyncio.open_unix_connection(served.path)
    for _ in range(5):
        assert await one.say(b'{"execute": "query-name"}') == {"return": {}}
    assert len(served.server.statistics().clients) == 1
    one.writer.transport.abort()
    assert b"QMP" in await reader.readline()
    writer.close()


# Addresses


async def test_socket_is_for_its_owner_only_whatever_the_umask(served: Served) -> None:
    assert mode_of(served.path) == 0o600
    shared = served.path + "2"
    umask = os.umask(0o077)
    try:
        listen_unix(served.server, shared, mode=0o660)
    finally:
        os.umask(umask)
    assert mode_of(shared) == 0o660


async def test_monitors_at_several_addresses_serve_the_same(served: Served) -> None:
    listen_unix(served.server, served.path + "2")
    bound = bind_inet("127.0.0.1", "0")
    served.server.listen(address_text(bound), bound)
    assert served.server.addresses[:2] == [f"unix:{served.path}", f"unix:{served.path}2"]
    host, port = served.server.addresses[2].removeprefix("tcp:").split(":")
    one = await served.client()
    two = await served.client(served.path + "2")
    three = Client(*await asyncio.open_connection(host, int(port)))
    served.clients.append(three)
    await three.read()
    await three.say(CAPABILITIES)
    served.events.emit("HELLO")
    for client in (one, two, three):
        assert (await client.read())["event"] == "HELLO"


async def test_pretty_monitor_spreads_its_output(served: Served) -> None:
    path = served.path + "2"
    listen_unix(served.server, path, pretty=True)
    reader, writer = await asyncio.open_unix_connection(path)
    served.clients.append(Client(reader, writer))
    assert json.loads(await reader.readuntil(b"\r\n}\r\n"))["QMP"]
    writer.write(CAPABILITIES)
    assert await reader.readuntil(b"\r\n}\r\n") == b'{\r\n    "return": {\r\n    }\r\n}\r\n'
    served.events.emit("HELLO", {"a": 1})
    assert json.loads(await reader.readuntil(b"\r\n}\r\n"))["data"] == {"a": 1}


async def test_stale_socket_is_replaced(served: Served) -> None:
    path = served.path + "2"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    listen_unix(served.server, path)
    client = await served.client(path)
    assert await client.say(b'{"execute": "query-name"}') == {"return": {}}


@pytest.mark.parametrize("kind", ["live", "file", "directory", "missing"])
async def test_address_that_is_not_free_is_refused_and_left_alone(
    served: Served, kind: str
) -> None:
    path = served.path + "2"
    if kind == "live":
        listen_unix(served.server, path)
    elif kind == "file":
        put_file(path)
    elif kind == "directory":
        os.mkdir(path)  # noqa: PTH102 - the paths here are strings
    else:
        path += "/qmp"
    text = "No such file or directory" if kind == "missing" else "Address already in use"
    with pytest.raises(QmpError, match=f"Failed to bind socket to {path}: {text}"):
        listen_unix(served.server, path)
    if kind == "file":
        assert holds_file(path)
    if kind == "live":
        await served.client(path)


async def test_socket_replaced_by_another_is_not_removed(served: Served) -> None:
    put_file(served.path)
    await served.server.close()
    assert holds_file(served.path)


async def test_path_too_long_for_a_socket_is_refused(served: Served) -> None:
    path = served.path + "x" * 108
    with pytest.raises(QmpError, match=r"UNIX socket path '.*' is too long"):
        listen_unix(served.server, path)


async def test_socket_passed_in_is_served(served: Served) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    await served.server.accept_socket(ours)
    client = Client(*await asyncio.open_unix_connection(sock=theirs))
    served.clients.append(client)
    assert "QMP" in await client.read()
    assert await client.say(CAPABILITIES) == {"return": {}}
