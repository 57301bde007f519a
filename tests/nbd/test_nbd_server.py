"""The server on a real socket, over disks in memory."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blkxact.block.drain import drained
from blkxact.block.parents import Parents
from blkxact.block.types import Permission
from blkxact.errors import QmpError
from blkxact.export import nbd_memory
from blkxact.export.nbd_connection import (
    CLOSE_GRACE_S,
    MAX_REQUESTS_IN_FLIGHT,
    MAX_UNREAD_OUTPUT,
    NbdConnection,
)
from blkxact.nbd.protocol import (
    EXTENT,
    MAX_PAYLOAD,
    Chunk,
    Command,
    CommandFlag,
    Option,
)
from blkxact.nbd.request_stream import Request, RequestStream
from blkxact.qapi.block_export import HANDSHAKE_MAX_SECONDS
from blkxact.qapi.sockets import UnixSocketAddress
from blkxact.testing.objects import alive
from blkxact.testing.waiting import until, until_idle
from tests.memory_disks import BLOCK, Gate, failing

from .served import MIB, Client, Served
from .talk import FIXED_NO_ZEROES, contexts, go, option, request, write


@pytest.fixture
async def served(image_dir: Path) -> AsyncIterator[Served]:
    served = Served(image_dir)
    served.start()
    yield served
    await served.close()


# Transfers


async def test_written_data_is_read_back(served: Served, seeded) -> None:
    served.export()
    client = await served.client()
    data = seeded.randbytes(3 * MIB)
    assert (await client.write(4096, data)).error == 0
    assert await client.read(4096, 3 * MIB) == data
    assert bytes(served.disk.file.data[4096 : 4096 + 3 * MIB]) == data


async def test_client_without_structured_replies_is_served(served: Served) -> None:
    served.export()
    client = await served.client(structured=False)
    assert (await client.write(0, b"x" * 512)).simple
    assert (await client.ask(Command.READ, 0, 513)).data == b"x" * 512 + b"\0"
    reply = await client.ask(Command.READ, 4 * MIB, 1)
    assert (reply.simple, reply.error) == (True, errno.EINVAL)


async def test_holes_are_sent_as_holes_unless_the_client_minds(served: Served) -> None:
    served.export()
    served.disk.fill(64 * 1024, b"y" * 4096)
    client = await served.client()
    reply = await client.ask(Command.READ, 0, 256 * 1024)
    assert [kind for kind, _ in reply.chunks] == [
        Chunk.OFFSET_HOLE,
        Chunk.OFFSET_DATA,
        Chunk.OFFSET_HOLE,
    ]
    reply = await client.ask(Command.READ, 0, 256 * 1024, CommandFlag.DF)
    assert [kind for kind, _ in reply.chunks] == [Chunk.OFFSET_DATA]
    assert len(reply.chunks[0][1]) == 256 * 1024 + 8


async def test_fua_and_flush_make_data_durable(served: Served) -> None:
    served.export()
    client = await served.client()
    await client.write(0, b"a")
    assert served.disk.log == [("write", 0, 1)]
    await client.ask(Command.FLUSH)
    await client.write(1, b"b", CommandFlag.FUA)
    await client.ask(Command.WRITE_ZEROES, 0, 4096, CommandFlag.FUA)
    assert [kind for kind, *_ in served.disk.log[1:]] == [
        "flush",
        "write",
        "flush",
        "zero",
        "flush",
    ]


async def test_writethrough_export_makes_every_write_durable(served: Served) -> None:
    served.export(writethrough=True)
    client = await served.client()
    await client.write(0, b"a")
    assert served.disk.log[-1] == ("flush", 0, 0)


async def test_trim_zeroes_and_cache_reach_the_disk(served: Served) -> None:
    served.export()
    client = await served.client()
    assert (await client.ask(Command.TRIM, 0, 4096, CommandFlag.FUA)).error == 0
    assert (await client.ask(Command.WRITE_ZEROES, 4096, 4096, CommandFlag.NO_HOLE)).error == 0
    assert ("zero", 4096, 4096) in served.disk.log
    assert (await client.ask(Command.CACHE, 0, 2 * MIB)).error == 0
    reads = [length for kind, _, length in served.disk.log if kind == "read"]
    assert sum(reads) == 2 * MIB


async def test_zeroes_that_must_be_fast_and_are_not_are_refused(served: Served) -> None:
    served.export()
    served.disk.hook = failing("zero", 0, errno.ENOTSUP, once=False)
    client = await served.client()
    flags = CommandFlag.FAST_ZERO
    assert (await client.ask(Command.WRITE_ZEROES, 0, 4096, flags)).error == 95
    assert (await client.ask(Command.WRITE_ZEROES, 0, 4096)).error == 0


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error", "text"),
    [
        (Command.READ, 4 * MIB, 1, 0, 22, "operation past EOF; From: 4194304, Len: 1"),
        (Command.READ, 2**64 - 1, 1, 0, 22, "operation past EOF"),
        (Command.WRITE_ZEROES, 4 * MIB - 1, 2, 0, 28, "operation past EOF"),
        (Command.TRIM, 4 * MIB - 1, 2, 0, 22, "operation past EOF"),
        (Command.BLOCK_STATUS, 4 * MIB, 1, 0, 22, "operation past EOF"),
        (Command.READ, 0, MAX_PAYLOAD + 1, 0, 22, "larger than max len"),
        (Command.CACHE, 0, MAX_PAYLOAD + 1, 0, 22, "larger than max len"),
        (Command.READ, 0, 1, 16, 22, "unsupported flags for command read (got 0x10)"),
        (Command.FLUSH, 0, 0, 8, 22, "unsupported flags for command flush (got 0x8)"),
        (Command.BLOCK_STATUS, 0, 0, 0, 22, "need non-zero length"),
        (Command.BLOCK_STATUS, 0, 1, 0, 22, "CMD_BLOCK_STATUS not negotiated"),
        (99, 0, 0, 0, 22, "invalid request type (99) received"),
    ],
)
async def test_request_without_sense_is_refused_and_the_client_goes_on(
    served: Served, command: int, offset: int, length: int, flags: int, error: int, text: str
) -> None:
    served.export()
    client = await served.client()
    reply = await client.ask(command, offset, length, flags)
    assert reply.error == error
    assert text in reply.message
    assert await client.read(0, 1) == b"\0"


async def test_write_that_is_too_long_is_refused_and_ends_the_connection(served: Served) -> None:
    served.export()
    client = await served.client()
    reply = await client.ask(Command.WRITE, 0, MAX_PAYLOAD + 1)
    assert reply.error == 22
    assert await client.closed() == b""


@pytest.mark.parametrize("command", [Command.WRITE, Command.WRITE_ZEROES, Command.TRIM])
async def test_export_that_is_read_only_refuses_to_write(served: Served, command: int) -> None:
    served.export(writable=False)
    client = await served.client()
    client.send(request(command, 0, 4, payload=b"data" if command == Command.WRITE else b""))
    reply = await client.reply()
    assert (reply.error, reply.message) == (1, "Export is read-only")
    assert served.disk.log == []


@pytest.mark.parametrize(
    "command", [Command.WRITE, Command.TRIM, Command.WRITE_ZEROES, Command.FLUSH, Command.CACHE]
)
async def test_export_whose_node_is_inactive_can_only_be_read(
    served: Served, command: Command
) -> None:
    """In the words of QEMU 10.0."""
    served.export()
    client = await served.client()
    node = served.graph.nodes["disk"]
    node.driver.inactive = True
    client.send(request(command, 0, 4, payload=b"data" if command == Command.WRITE else b""))
    reply = await client.reply()
    assert (reply.error, reply.message) == (1, "export is inactive")
    assert served.disk.log == []
    assert await client.read(0, 4) == bytes(4)
    node.driver.inactive = False
    assert (await client.write(0, b"data")).error == 0


async def test_error_of_the_disk_is_told(served: Served) -> None:
    served.export()
    served.disk.hook = failing("write", 0, errno.ENOSPC)
    client = await served.client()
    reply = await client.write(0, b"data")
    assert (reply.error, reply.message) == (28, "writing to file failed")
    served.disk.hook = failing("read", 100 * BLOCK, errno.EIO)
    served.disk.fill(0, b"x" * MIB)
    reply = await client.ask(Command.READ, 0, MIB)
    assert (reply.error, reply.message) == (5, "reading from file failed")
    assert (await client.write(0, b"data")).error == 0


async def test_bug_in_a_driver_fails_one_request(served: Served, caplog) -> None:
    async def bug(*_: object) -> None:
        raise ZeroDivisionError

    served.export()
    served.disk.hook = bug
    client = await served.client()
    assert (await client.write(0, b"data")).error == 5
    served.disk.hook = None
    assert (await client.write(0, b"data")).error == 0
    assert "failed within" in caplog.text


# Maps


def runs(data: bytes) -> list[tuple[int, int]]:
    return list(EXTENT.iter_unpack(data[4:]))


async def test_status_tells_every_context_that_was_selected(served: Served) -> None:
    bitmap = served.bitmap("disk", "b0")
    served.export(bitmaps=["b0"], allocation_depth=True)
    served.disk.fill(MIB, b"z" * MIB)
    bitmap.mark(2 * MIB, 65536)
    maps = ("base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0")
    client = await served.client(maps=maps)
    reply = await client.ask(Command.BLOCK_STATUS, 0, 4 * MIB)
    assert [data[3] for _, data in reply.chunks] == [0, 1, 2]
    assert runs(reply.chunks[0][1]) == [(MIB, 3), (MIB, 0), (2 * MIB, 3)]
    assert runs(reply.chunks[1][1]) == [(MIB, 0), (MIB, 1), (2 * MIB, 0)]
    assert runs(reply.chunks[2][1]) == [
        (2 * MIB, 0),
        (65536, 1),
        (2 * MIB - 65536, 0),
    ]


async def test_status_of_one_extent_is_the_longest_run(served: Served) -> None:
    served.export()
    served.disk.fill(3 * MIB, b"z" * 4096)
    client = await served.client(maps=("base:allocation",))
    reply = await client.ask(Command.BLOCK_STATUS, 0, 4 * MIB, CommandFlag.REQ_ONE)
    assert runs(reply.chunks[0][1]) == [(3 * MIB, 3)]


async def test_status_with_too_many_extents_is_cut(served: Served, monkeypatch) -> None:
    monkeypatch.setattr("blkxact.export.nbd_maps.MAX_EXTENTS", 10)
    served.export()
    for block in range(0, 400, 2):
        served.disk.fill(block * BLOCK, b"z" * BLOCK)
    client = await served.client(maps=("base:allocation",))
    reply = await client.ask(Command.BLOCK_STATUS, 0, 4 * MIB)
    assert runs(reply.chunks[0][1]) == [(BLOCK, 0), (BLOCK, 3)] * 5


@pytest.mark.parametrize(("first", "flags"), [(0, 0), (1, 0), (0, 8), (1, 8)])
async def test_status_of_a_dirty_bitmap_is_cut_at_the_limit(
    served: Served, monkeypatch, first: int, flags: int
) -> None:
    monkeypatch.setattr("blkxact.export.nbd_maps.MAX_EXTENTS", 10)
    bitmap = served.bitmap("disk", "b0")
    for block in range(first, 60, 2):
        bitmap.mark(block * 65536, 1)
    served.export(bitmaps=["b0"])
    client = await served.client(maps=("qemu:dirty-bitmap:b0",))
    reply = await client.ask(Command.BLOCK_STATUS, 0, 4 * MIB, flags)
    turns = [(65536, (number + 1 - first) % 2) for number in range(10)]
    limit = 1 if CommandFlag(flags) & CommandFlag.REQ_ONE else 10
    assert runs(reply.chunks[0][1]) == turns[:limit]


# Exports


async def test_export_has_the_names_and_flags_of_its_options(served: Served) -> None:
    one = served.export()
    two = served.export(export_id="two", name="", description="d", writable=False)
    assert (one.name, one.description, one.flags) == ("disk", None, 0xD6D)
    assert (two.name, two.description, two.flags) == ("", "d", 0x50F)
    assert [info["id"] for info in served.exports.query()] == ["two", "e"]
    assert served.exports.query()[1] == {
        "id": "e",
        "type": "nbd",
        "node-name": "disk",
        "shutting-down": False,
    }


async def test_export_to_one_connection_says_so(image_dir: Path) -> None:
    served = Served(image_dir)
    served.start(max_connections=1)
    assert not served.export().flags & 1 << 8
    await served.close()


async def test_export_keeps_its_bitmaps_busy_until_it_is_gone(served: Served) -> None:
    bitmap = served.bitmap("disk", "b0")
    served.export(bitmaps=["b0"])
    assert bitmap.busy
    with pytest.raises(QmpError, match="Bitmap 'b0' is currently in use by another operation"):
        served.export(export_id="e2", name="again", bitmaps=["b0"])
    await served.exports.remove("e")
    assert served.events == []  # the reply goes first
    await until(lambda: served.events)
    assert served.events == [("BLOCK_EXPORT_DELETED", {"id": "e"})]
    assert not bitmap.busy
    assert served.exports.query() == []
    served.export(bitmaps=["b0"])


async def test_export_of_a_bitmap_in_the_chain_below(served: Served) -> None:
    served.bitmap("other", "below", enabled=False)
    served.disks.backing("disk", "other")
    assert served.export(bitmaps=["below"]).contexts[2] == "qemu:dirty-bitmap:below"


async def test_export_that_is_refused_leaves_nothing(served: Served) -> None:
    bitmap = served.bitmap("disk", "b0")
    served.disk.length = 3 * MIB
    with pytest.raises(QmpError, match="Bitmap 'nope' is not found"):
        served.export(bitmaps=["b0", "nope"])
    assert not bitmap.busy
    assert not served.graph.nodes["disk"].parents


async def test_export_prevents_resizing_and_bears_writers(served: Served) -> None:
    served.export()
    served.disks.guest("disk")
    with pytest.raises(QmpError, match="Permission conflict on node 'disk'"):
        served.disks.edge("disk", Permission.RESIZE)


async def test_export_in_use_is_removed_only_by_force(served: Served) -> None:
    served.export()
    client = await served.client()
    with pytest.raises(QmpError, match="export 'e' still in use"):
        await served.exports.remove("e")
    await served.exports.remove("e", "hard")
    with pytest.raises(QmpError, match="Export 'e' is already shutting down"):
        await served.exports.remove("e")
    assert await client.closed() == b""
    await until(lambda: served.events)
    with pytest.raises(QmpError, match="Export 'e' is not found"):
        await served.exports.remove("e")


async def test_export_whose_client_has_just_left_is_not_in_use(served: Served) -> None:
    served.export()
    client = await served.client()
    assert await client.read(0, 1) == b"\0"
    client.send(request(Command.DISC))
    await served.exports.remove("e")
    await until(lambda: served.events)


async def test_export_removed_by_force_waits_for_the_request_under_way(served: Served) -> None:
    served.export()
    served.disk.hook = gate = Gate("write")
    client = await served.client()
    client.send(write(0, b"data"))
    await gate.arrived.wait()
    await served.exports.remove("e", "hard")
    await client.closed()
    await asyncio.sleep(0)
    assert served.exports.query()[0]["shutting-down"]
    new = await served.connect()
    await new.exactly(18)
    new.send(FIXED_NO_ZEROES + go("disk"))
    assert (await new.answers())[-1][1] == b"export 'disk' not present"
    successor = served.export("disk", "other")
    gate.opened.set()
    await until(lambda: served.events)
    assert served.exports.find_offer("disk") is successor
    successor.shut_down()
    assert served.exports.find_offer("disk") is None
    await until(lambda: len(served.events) == 2)
    assert served.disk.file.data[:4] == b"data"
    assert not served.graph.nodes["disk"].parents


async def test_one_more_export_of_a_node_looks_at_none_of_the_others(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        served.export("disk", f"e{number}", name=f"n{number}", writable=bool(number % 2))
    monkeypatch.setattr(Parents, "__iter__", None)
    monkeypatch.setattr(Parents, "__reversed__", None)
    served.export().shut_down()
    await until(lambda: served.events)


async def test_server_that_stops_takes_all_exports_with_it(served: Served) -> None:
    served.export()
    served.export("other", "o")
    client = await served.client()
    idle = await served.connect()
    await served.server.stop()
    assert [data["id"] for _, data in served.events] == ["o", "e"] or len(served.events) == 2
    await client.closed()
    await idle.closed()
    assert not Path(served.path).exists()  # noqa: ASYNC240 - one call
    with pytest.raises(QmpError, match="NBD server not running"):
        await served.server.stop()
    with pytest.raises(QmpError, match="NBD server not running"):
        served.export()
    served.start()


async def test_server_runs_once_and_robs_nobody_of_a_socket(
    served: Served, image_dir: Path
) -> None:
    with pytest.raises(QmpError, match="NBD server already running"):
        served.start()
    second = Served(image_dir)
    with pytest.raises(QmpError, match="Address already in use"):
        second.start()
    assert not second.server.running


async def test_unix_socket_in_no_directory_is_refused(served: Served) -> None:
    server = Served(Path("/nonexistent")).server
    with pytest.raises(QmpError, match="Failed to bind socket"):
        server.start(UnixSocketAddress(path="/nonexistent/nbd"))


# Clients that are slow, silent, hostile or gone


async def test_client_beyond_the_limit_waits_until_one_leaves(image_dir: Path) -> None:
    served = Served(image_dir)
    served.start(max_connections=2)
    served.export()
    first, second = await served.client(), await served.client()
    third = await served.connect()
    greeting = asyncio.create_task(third.exactly(18))
    assert await second.read(0, 1) == b"\0"
    assert not greeting.done()
    first.leave()
    await greeting
    await served.close()


async def test_client_that_is_silent_in_the_handshake_is_disconnected(served: Served) -> None:
    client = await served.connect()
    await client.exactly(18)
    client.send(FIXED_NO_ZEROES + option(Option.LIST)[:-1])
    await until(lambda: served.clock.sleepers)
    served.clock.advance(HANDSHAKE_MAX_SECONDS - 1)
    await until_idle()
    assert not client.reader.at_eof()
    served.clock.advance(1)
    assert await client.closed() == b""


async def test_handshake_may_have_another_limit(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.start(handshake_s=3)
    client = await served.connect()
    await client.exactly(18)
    await until(lambda: served.clock.sleepers)
    served.clock.advance(3)
    assert await client.closed() == b""
    await served.close()


async def test_handshake_without_a_limit_takes_as_long_as_it_likes(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.start(handshake_s=0)
    served.export()
    client = await served.connect()
    await until_idle()
    served.clock.advance(1e9)
    await client.shake()
    assert await client.read(0, 1) == b"\0"
    await served.close()


async def test_client_that_is_silent_later_is_left_alone(served: Served) -> None:
    served.export()
    client = await served.client()
    served.clock.advance(1e9)
    assert await client.read(0, 1) == b"\0"


async def test_client_that_does_not_read_gets_nothing_more_to_do(served: Served) -> None:
    served.export()
    served.disk.fill(0, b"x" * 4 * MIB)
    greedy, modest = await served.client(), await served.client()
    greedy.writer.transport.pause_reading()
    for _ in range(200):
        greedy.send(request(Command.READ, 0, MIB))
    assert await modest.read(0, 4) == b"xxxx"
    reads = None
    while reads != (reads := sum(length == MIB for _, _, length in served.disk.log)):
        assert await modest.read(0, 4) == b"xxxx"
    unread = max(one.unread for one in served.server.statistics().clients)
    assert 0 < unread <= MAX_UNREAD_OUTPUT + MIB
    assert reads < MAX_UNREAD_OUTPUT + 4 * MIB
    greedy.writer.transport.resume_reading()
    for _ in range(200):
        assert not (await greedy.reply()).error


async def test_clients_that_do_not_read_hold_little_together(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nbd_memory, "MAX_BYTES_HELD", 4 * MIB)
    served.export()
    served.disk.fill(0, b"x" * 4 * MIB)
    modest = await served.client()
    greedy = [await served.client() for _ in range(8)]
    for client in greedy:
        client.writer.transport.pause_reading()
        for _ in range(20):
            client.send(request(Command.READ, 0, MIB))
    reads = None
    while reads != (reads := sum(length == MIB for _, _, length in served.disk.log)):
        for _ in range(20):
            assert await modest.read(0, 4) == b"xxxx"
    # One request more than fits, and one of each client that had none.
    assert served.server.memory.held <= (4 + 1 + 8) * MIB
    # A client without a request may always begin one, however large.
    assert await modest.read(0, 2 * MIB) == b"x" * 2 * MIB
    for client in greedy:
        client.writer.transport.resume_reading()
        for _ in range(20):
            assert not (await client.reply()).error
    assert served.server.memory.held == 0


def test_only_what_carries_data_takes_memory() -> None:
    def size(command: int, length: int) -> int:
        return nbd_memory.memory_of(Request(0, command, 0, 0, length))

    assert size(Command.READ, MIB) == size(Command.WRITE, MIB) == MIB
    assert size(Command.READ, 2 * MAX_PAYLOAD) == MAX_PAYLOAD
    assert size(Command.WRITE_ZEROES, MIB) == size(Command.TRIM, MIB) == 0


@pytest.mark.parametrize("command", [Command.READ, Command.WRITE, Command.FLUSH, 99])
async def test_client_that_left_leaves_no_object_and_holds_nothing(
    served: Served, command: int
) -> None:
    served.export()
    served.disk.fill(0, b"x" * 4 * MIB)
    client = await served.client()
    client.writer.transport.pause_reading()
    gc.collect()
    before = alive(NbdConnection, RequestStream)
    assert before >= 2
    gc.disable()  # a cycle would keep its memory until the next collection
    try:
        for _ in range(20):
            payload = b"y" * MIB if command == Command.WRITE else b""
            client.send(request(command, 0, MIB) + payload)
        await until_idle()
        client.leave()
        await until(lambda: not served.server.statistics().clients)
        await until(lambda: alive(NbdConnection, RequestStream) == before - 2)
    finally:
        gc.enable()
    assert served.server.memory.held == 0


async def test_client_with_many_requests_has_few_under_way(served: Served) -> None:
    served.export()
    served.disk.hook = gate = Gate("write")
    client, other = await served.client(), await served.client()
    for cookie in range(3 * MAX_REQUESTS_IN_FLIGHT):
        client.send(write(0, b"d" * 512, cookie=cookie))
    await until(lambda: gate.waiting == MAX_REQUESTS_IN_FLIGHT)
    for _ in range(5):
        await other.read(0, 1)
    assert gate.waiting == MAX_REQUESTS_IN_FLIGHT
    gate.opened.set()
    cookies = {(await client.reply()).cookie for _ in range(3 * MAX_REQUESTS_IN_FLIGHT)}
    assert cookies == set(range(3 * MAX_REQUESTS_IN_FLIGHT))


async def test_payloads_of_requests_that_wait_are_not_mixed_up(served: Served, seeded) -> None:
    served.export()
    served.disk.hook = gate = Gate("write")
    client = await served.client()
    pieces = [seeded.randbytes(seeded.choice([512, 5000, 70_000])) for _ in range(40)]
    at = 0
    for piece in pieces:
        client.send(write(at, piece))
        at += len(piece)
    await until(lambda: gate.waiting == 40)
    gate.opened.set()
    for _ in pieces:
        assert not (await client.reply()).error
    assert bytes(served.disk.file.data[:at]) == b"".join(pieces)


async def test_client_that_says_good_bye_gets_the_last_replies(served: Served) -> None:
    served.export()
    served.disk.hook = gate = Gate("write")
    client = await served.client()
    client.send(write(0, b"data", cookie=5) + request(Command.DISC))
    await gate.arrived.wait()
    gate.opened.set()
    assert (await client.reply()).cookie == 5
    assert await client.closed() == b""
    await until(lambda: not served.server.statistics().clients)


async def test_client_that_says_good_bye_and_does_not_read_is_cut_off(
    served: Served, monkeypatch
) -> None:
    monkeypatch.setattr("blkxact.export.nbd_server.SEND_BUFFER", 65536)
    served.export()
    served.disk.fill(0, b"x" * 4 * MIB)
    client = await served.client()
    client.writer.transport.pause_reading()
    client.send(request(Command.READ, 0, 2 * MIB) + request(Command.DISC))
    await until(lambda: any(one.leaving for one in served.server.statistics().clients))
    await until(lambda: served.clock.sleepers)
    served.clock.advance(CLOSE_GRACE_S)
    await until(lambda: not served.server.statistics().clients)
    await served.exports.remove("e")
    assert served.server.memory.held == 0


async def test_connection_that_breaks_while_output_drains_is_lost_once(
    served: Served, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("blkxact.export.nbd_server.SEND_BUFFER", 65536)
    transports = []
    greet = NbdConnection.connection_made

    def note(connection: NbdConnection, transport) -> None:
        transports.append(transport)
        greet(connection, transport)

    monkeypatch.setattr(NbdConnection, "connection_made", note)
    served.export()
    served.disk.fill(0, b"x" * 4 * MIB)
    client = await served.client()
    client.writer.transport.pause_reading()
    client.send(request(Command.READ, 0, 2 * MIB))
    await until(lambda: any(one.choked for one in served.server.statistics().clients))
    # The end comes in the very call in which the transport says that it takes more.
    resume = NbdConnection.resume_writing

    def broken(connection: NbdConnection) -> None:
        transports[0]._sock = Broken(transports[0]._sock)
        resume(connection)

    monkeypatch.setattr(NbdConnection, "resume_writing", broken)
    client.writer.transport.resume_reading()
    await until(lambda: not served.server.statistics().clients)
    await until_idle()  # a second end would come right after the first
    assert "Exception in callback" not in caplog.text
    await served.exports.remove("e")


class Broken:
    """A socket whose other end is gone."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real

    def send(self, _data: bytes) -> int:
        raise BrokenPipeError

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


async def test_client_that_closed_its_side_still_gets_its_replies(served: Served) -> None:
    served.export()
    client = await served.client()
    client.send(write(0, b"data"))
    client.writer.write_eof()
    assert not (await client.reply()).error
    assert await client.closed() == b""


async def test_client_that_sends_noise_is_disconnected_and_disturbs_nobody(
    served: Served, seeded
) -> None:
    served.export()
    other = await served.client()
    for _ in range(30):
        client = await served.client()
        client.send(seeded.randbytes(100))
        await client.closed()
    assert await other.read(0, 1) == b"\0"
    await until(lambda: len(served.server.statistics().clients) == 1)


async def test_requests_with_noise_never_break_the_server(served: Served, seeded) -> None:
    served.bitmap("disk", "b0")
    served.export(bitmaps=["b0"], allocation_depth=True)
    for _ in range(60):
        client = await served.client(maps=("base:allocation", "qemu:dirty-bitmap:b0"))
        words = bytearray()
        for _ in range(20):
            payload = seeded.randbytes(seeded.choice([0, 1, 512, 70_000]))
            command = seeded.choice([*range(9), 65535])
            length = len(payload) if command == Command.WRITE else seeded.getrandbits(23)
            words += request(
                command,
                seeded.randrange(5 * MIB),
                length,
                flags=seeded.choice([0, 0, 1, 2, 4, 8, 16, 0xFFFF]),
                payload=payload if command == Command.WRITE else b"",
            )
        for _ in range(seeded.choice([0, 0, 1])):
            words[seeded.randrange(len(words))] ^= 1 << seeded.randrange(8)
        client.send(bytes(words))
        client.writer.write_eof()
        await client.closed()
    healthy = await served.client()
    assert (await healthy.write(0, b"fine")).error == 0
    healthy.leave()
    await until(lambda: not served.server.statistics().clients)
    await served.exports.remove("e")
    await until(lambda: served.events)


async def test_client_that_leaves_at_any_byte_leaves_nothing_behind(served: Served) -> None:
    served.export()
    words = b"".join(
        [
            FIXED_NO_ZEROES,
            option(Option.STRUCTURED_REPLY),
            option(Option.SET_META_CONTEXT, contexts("disk", "base:allocation")),
            go("disk"),
            write(0, b"data" * 10),
            request(Command.READ, 0, 100),
            request(Command.BLOCK_STATUS, 0, 4 * MIB),
            request(Command.DISC),
        ]
    )
    for end in range(len(words) + 1):
        client = await served.connect()
        client.send(words[:end])
        if end % 2:
            client.writer.write_eof()
            await client.closed()
        client.leave()
    await until(lambda: not served.server.statistics().clients)
    assert served.clock.sleepers == 0
    await served.exports.remove("e")
    await until(lambda: served.events)


# Drains


async def test_requests_wait_in_a_drained_section(served: Served) -> None:
    served.export()
    client = await served.client()
    async with drained([served.graph.nodes["disk"]]):
        client.send(write(0, b"late"))
        await client.writer.drain()
        await until(lambda: served.server.statistics().clients[0].requests)
        assert served.disk.log == []
    assert not (await client.reply()).error
    assert served.disk.file.data[:4] == b"late"


async def test_reads_of_many_clients_are_all_served(served: Served, seeded) -> None:
    served.export()
    served.disk.fill(0, seeded.randbytes(4 * MIB))

    async def work(client: Client, offset: int) -> None:
        for _ in range(20):
            data = await client.read(offset, 10_000)
            assert data == bytes(served.disk.file.data[offset : offset + 10_000])

    clients = [await served.client() for _ in range(20)]
    await asyncio.gather(*(work(client, n * 100_000) for n, client in enumerate(clients)))
