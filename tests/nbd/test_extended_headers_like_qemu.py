"""Extended headers against a real QEMU 10.0, which has them on both sides."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from blkxact.block.types import WriteFlags
from blkxact.blockdev.blockdev import Blockdev
from blkxact.nbd.protocol import (
    EXTENDED_CHUNK,
    EXTENDED_REPLY_MAGIC,
    MAX_PAYLOAD,
    U32,
    Chunk,
    ChunkFlag,
    Command,
    CommandFlag,
    Info,
    Option,
)
from blkxact.storage.os_file import OsStorage
from tests.environment import environment

from .process import Daemon, run
from .talk import (
    FIXED_NO_ZEROES,
    contexts,
    go,
    option,
    option_replies,
    read_answers,
    request,
    status_payload,
)

pytestmark = pytest.mark.qemu10

GIB = 1 << 30
SIZE = 20 * GIB
PAYLOAD = CommandFlag.PAYLOAD_LEN
BASE = "base:allocation"
BITMAP = "qemu:dirty-bitmap:b"


def tool(name: str) -> str:
    return str(Path(os.environ["BLKXACT_QEMU10"]) / "bin" / name)


def serving(daemon: Daemon, image: Path) -> Daemon:
    """Let a daemon export an image with a bitmap."""
    file = {"driver": "file", "filename": str(image), "discard": "unmap"}
    node = {"driver": "raw", "node_name": "disk", "discard": "unmap", "file": file}
    assert daemon.execute("blockdev-add", **node) == {}
    assert daemon.execute("block-dirty-bitmap-add", node="disk", name="b", granularity=65536) == {}
    address = {"type": "unix", "data": {"path": str(daemon.nbd)}}
    assert daemon.execute("nbd-server-start", addr=address) == {}
    nbd = {"type": "nbd", "id": "e", "node_name": "disk", "writable": True, "bitmaps": ["b"]}
    assert daemon.execute("block-export-add", **nbd) == {}
    return daemon


@pytest.fixture
def daemons(image_dir: Path) -> Iterator[tuple[Daemon, Daemon]]:
    for name in ("ours", "theirs"):
        with (image_dir / name).open("wb") as image:
            image.truncate(SIZE)
    program = [tool("qemu-storage-daemon")]
    with (
        Daemon(image_dir, "--emulate", "10.0") as ours,
        Daemon(image_dir, program=program) as theirs,
    ):
        yield serving(ours, image_dir / "ours"), serving(theirs, image_dir / "theirs")


class Peer:
    """A client that sends bytes."""

    def __init__(self, daemon: Daemon) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(daemon.nbd))
        assert self.exactly(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.socket.sendall(FIXED_NO_ZEROES)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                return data
            data += more
        return data

    def ask(self, words: bytes) -> list[tuple[int, int, bytes]]:
        self.socket.sendall(words)
        return option_replies(read_answers(self.socket))

    def request(self, words: bytes) -> list[tuple[int, ...] | bytes]:
        """Return the chunks of the reply to a request; nothing if the connection was closed."""
        self.socket.sendall(words)
        found: list[tuple[int, ...] | bytes] = []
        while True:
            head = self.exactly(EXTENDED_CHUNK.size)
            if not head:
                return found
            fields = EXTENDED_CHUNK.unpack(head)
            assert fields[0] == EXTENDED_REPLY_MAGIC
            found += [fields[1:], self.exactly(fields[-1])]
            if fields[1] & ChunkFlag.DONE:
                return found


OPTIONS = {
    "extended with data": option(Option.EXTENDED_HEADERS, b"x"),
    "structured": option(Option.STRUCTURED_REPLY),
    "go without": option(Option.INFO, go("disk", Info.BLOCK_SIZE)[16:]),
    "extended": option(Option.EXTENDED_HEADERS),
    "extended again": option(Option.EXTENDED_HEADERS),
    "structured again": option(Option.STRUCTURED_REPLY),
    "info": option(Option.INFO, go("disk", Info.BLOCK_SIZE)[16:]),
    "contexts": option(Option.SET_META_CONTEXT, contexts("disk", BASE, BITMAP)),
    "unknown": option(77, b"data"),
    "go": go("disk", Info.BLOCK_SIZE),
}


def ext(command: int, offset: int = 0, length: int = 0, flags: int = 0, payload: bytes = b""):
    return request(command, offset, length, flags=flags, payload=payload, extended=True)


REQUESTS = {
    "write": ext(Command.WRITE, 65536, flags=PAYLOAD, payload=b"a" * 4096),
    "write without the flag": ext(Command.WRITE, 5 * GIB, payload=b"b" * 65536),
    "read": ext(Command.READ, 65536, 4096, CommandFlag.DF),
    "read of nothing": ext(Command.READ, 65536),
    "read with holes": ext(Command.READ, 0, 1 << 20),
    "read too much": ext(Command.READ, 0, MAX_PAYLOAD + 1),
    "read with a payload": ext(Command.READ, 0, flags=PAYLOAD, payload=b"c" * 100),
    "flush": ext(Command.FLUSH),
    "flush with a payload": ext(Command.FLUSH, flags=PAYLOAD, payload=b"c" * 100),
    "cache too much": ext(Command.CACHE, 0, MAX_PAYLOAD + 1),
    "unknown": ext(77, flags=PAYLOAD, payload=b"c" * 100),
    "zeroes": ext(Command.WRITE_ZEROES, 6 * GIB, 10 * GIB),
    "zeroes past the end": ext(Command.WRITE_ZEROES, 6 * GIB, 1 << 63),
    "trim": ext(Command.TRIM, 6 * GIB, 10 * GIB),
    "trim past the end": ext(Command.TRIM, 1, SIZE),
    "status": ext(Command.BLOCK_STATUS, 0, SIZE),
    "status of one": ext(Command.BLOCK_STATUS, 1 << 20, SIZE - (1 << 20), CommandFlag.REQ_ONE),
    "status of nothing": ext(Command.BLOCK_STATUS),
    "status of base": ext(Command.BLOCK_STATUS, 0, 0, PAYLOAD, status_payload(SIZE, 0)),
    "status of bitmap": ext(Command.BLOCK_STATUS, 0, 0, PAYLOAD, status_payload(SIZE, 2)),
    "status of both": ext(Command.BLOCK_STATUS, 0, 0, PAYLOAD, status_payload(SIZE, 2, 0)),
    "status of none": ext(Command.BLOCK_STATUS, 0, 0, PAYLOAD, status_payload(SIZE)),
    "status twice": ext(Command.BLOCK_STATUS, 0, 0, PAYLOAD, status_payload(SIZE, 0, 0)),
    "status of depth": ext(Command.BLOCK_STATUS, 0, 0, PAYLOAD, status_payload(SIZE, 1)),
    "status of zero": ext(Command.BLOCK_STATUS, 0, 0, PAYLOAD, status_payload(0, 0)),
    "status cut": ext(Command.BLOCK_STATUS, 0, 0, PAYLOAD, status_payload(SIZE, 0)[:-1]),
    "status past": ext(Command.BLOCK_STATUS, 1, 0, PAYLOAD, status_payload(SIZE, 0)),
    "write past the end": ext(Command.WRITE, SIZE, flags=PAYLOAD, payload=b"a" * 512),
}
LAST = {
    "write too much": ext(Command.WRITE, 0, MAX_PAYLOAD + 1, PAYLOAD),
    "status too much": ext(Command.BLOCK_STATUS, 0, MAX_PAYLOAD + 1, PAYLOAD),
    "trim too much": ext(Command.TRIM, 0, MAX_PAYLOAD + 1, PAYLOAD),
    "leave": ext(Command.DISC, 0, 99, PAYLOAD),
}


def comparable(reply: list[tuple[int, ...] | bytes]) -> list[tuple[int, ...] | bytes]:
    """Return a reply without what differs on purpose: ENOSPC, and the borders of holes."""
    kinds = {fields[1] for fields in reply[::2]}
    if Chunk.ERROR in kinds:
        return [reply[0], *(part.replace(U32.pack(28), U32.pack(22), 1) for part in reply[1:])]
    if Chunk.OFFSET_HOLE not in kinds:
        return reply
    data = bytearray(1 << 20)
    for fields, payload in zip(reply[::2], reply[1::2], strict=True):
        assert isinstance(payload, bytes)
        at = int.from_bytes(payload[:8], "big")
        if fields[1] == Chunk.OFFSET_DATA:
            data[at : at + len(payload) - 8] = payload[8:]
    return [bytes(data)]


def test_options_and_requests_are_answered_as_by_qemu(daemons: tuple[Daemon, Daemon]) -> None:
    peers = [Peer(daemon) for daemon in daemons]
    for name, words in OPTIONS.items():
        answers = [peer.ask(words) for peer in peers]
        assert answers[0] == answers[1], name
    for name, words in REQUESTS.items():
        replies = [comparable(peer.request(words)) for peer in peers]
        assert replies[0] == replies[1], name
    for name, words in LAST.items():
        others = [Peer(daemon) for daemon in daemons]
        for option_words in OPTIONS.values():
            for peer in others:
                peer.ask(option_words)
        replies = [peer.request(words) for peer in others]
        assert replies[0] == replies[1], name
        assert [peer.exactly(1) for peer in others] == [b"", b""], name
        for peer in others:
            peer.socket.close()
    for peer in peers:
        peer.socket.close()


def test_qemu_as_a_client_sees_the_same(daemons: tuple[Daemon, Daemon]) -> None:
    lines = [run(tool("qemu-nbd"), "--list", "-k", daemon.nbd) for daemon in daemons]
    assert lines[0] == lines[1]
    assert "transaction size: 64-bit" in lines[0]
    seen = []
    for daemon in daemons:
        uri = daemon.uri()
        work = ("write -P 1 1G 64k", "write -z -u -n 2G 9G", "discard 3G 1G", "read -P 1 1G 64k")
        words = [word for each in work for word in ("-c", each)]
        run(tool("qemu-io"), "-f", "raw", *words, uri)
        seen.append(shown(daemon))
        dirty = f"driver=nbd,server.type=unix,server.path={daemon.nbd},export=disk"
        dirty += f",x-dirty-bitmap={BITMAP}"
        seen.append(run(tool("qemu-img"), "map", "--output", "json", "--image-opts", dirty))
    assert seen[:2] == seen[2:]


async def test_our_client_asks_for_more_than_4_gib_at_a_time(
    daemons: tuple[Daemon, Daemon],
) -> None:
    for daemon in daemons:
        storage = OsStorage()
        blockdev = Blockdev(environment(storage))
        server = {"type": "unix", "path": str(daemon.nbd)}
        nbd = {"driver": "nbd", "node-name": "n", "server": server, "export": "disk"}
        node = await blockdev.add({**nbd, "discard": "unmap"})
        await node.pwrite(7 * GIB, b"x" * 65536)
        await node.pwrite(17 * GIB, b"y" * 65536)
        await node.pwrite_zeroes(GIB, 8 * GIB, WriteFlags.MAY_UNMAP)
        await node.pdiscard(11 * GIB, 5 * GIB)
        mapped = await node.block_status(0, SIZE)
        assert [(one.offset, one.length) for one in mapped] == [
            (0, 17 * GIB),
            (17 * GIB, 65536),
            (17 * GIB + 65536, 3 * GIB - 65536),
        ]
        assert await node.pread(17 * GIB, 65536) == b"y" * 65536
        assert await node.pread(7 * GIB, 65536) == bytes(65536)
        await blockdev.close_all()
        storage.close()
    assert shown(daemons[0]) == shown(daemons[1])


def shown(daemon: Daemon) -> str:
    """Return the extents of a server as QEMU's client sees them."""
    return run(tool("qemu-img"), "map", "--output", "json", "-f", "raw", daemon.uri())
