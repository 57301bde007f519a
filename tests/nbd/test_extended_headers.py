"""Extended headers: 64-bit lengths, payloads of any command, and extents of 64 bits."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from blkxact.block.open_context import OpenContext
from blkxact.block.types import Extent, Status, WriteFlags
from blkxact.dirty.granules import Granules
from blkxact.export.nbd_maps import MAX_STATUS
from blkxact.export.nbd_transfer import ZERO_PIECE
from blkxact.nbd.client_handshake import ClientHandshake
from blkxact.nbd.option_reply import HandshakeError
from blkxact.nbd.protocol import (
    EXTENDED_EXTENT,
    EXTENDED_REPLY_MAGIC,
    EXTENTS_HEADER,
    MAX_PAYLOAD,
    U32,
    Chunk,
    Command,
    CommandFlag,
    Info,
    Mode,
    Option,
    OptionReply,
    ProtocolError,
    TransmissionFlag,
)
from blkxact.nbd.replies import Replies
from blkxact.nbd.reply_stream import MAX_SENT_EXTENTS, Answer, ReplyStream
from blkxact.nbd.request_stream import Request, RequestStream
from blkxact.nbd.server_handshake import ServerHandshake
from tests.memory_disks import BLOCK, MemoryDriver

from .served import MIB, Client, Served
from .server_words import CONTEXT, blocks, carry, export, greeting, hear, reply
from .streams import PIECE, answers_in, requests_in
from .talk import (
    Talk,
    ToyCatalogue,
    ToyOffer,
    contexts,
    go,
    info_data,
    option,
    request,
    status_payload,
    write,
)

DISK = ToyOffer("disk", contexts={0: "base:allocation", 2: "qemu:dirty-bitmap:b"})
OTHER = ToyOffer("other")
ASK = option(Option.EXTENDED_HEADERS)
ACK = (Option.EXTENDED_HEADERS, OptionReply.ACK, b"")
PAYLOAD = CommandFlag.PAYLOAD_LEN
GIB = 1 << 30


@pytest.fixture
async def served(image_dir: Path) -> AsyncIterator[Served]:
    served = Served(image_dir)
    served.exports.extended_headers = True
    served.start()
    yield served
    await served.close()


# The handshake


def test_extended_headers_are_agreed_once_and_replace_structured_replies() -> None:
    told = Talk(DISK, extended=True)
    assert told.say(option(Option.STRUCTURED_REPLY)) == [(8, OptionReply.ACK, b"")]
    assert told.refusal(option(Option.EXTENDED_HEADERS, b"!")) == (
        OptionReply.ERR_INVALID,
        "option 'extended headers' has unexpected length",
    )
    assert told.say(ASK) == [ACK]
    assert told.handshake.mode is Mode.EXTENDED
    text = "extended headers already negotiated"
    assert told.refusal(ASK) == (OptionReply.ERR_INVALID, text)
    structured = option(Option.STRUCTURED_REPLY)
    assert told.refusal(structured) == (OptionReply.ERR_EXT_HEADER_REQD, text)
    with pytest.raises(ProtocolError, match="Extended headers already negotiated"):
        told.say(option(Option.EXPORT_NAME, b"disk"))


def test_server_of_a_release_without_extended_headers_does_not_know_them() -> None:
    told = Talk(DISK)
    assert told.refusal(ASK) == (OptionReply.ERR_UNSUP, "Unsupported option 11 (<unknown>)")
    assert told.handshake.mode is Mode.SIMPLE


def flags_of(answers: list[tuple[int, int, bytes]]) -> int:
    (data,) = (data for _, _, data in answers if data[:2] == bytes(2) and len(data) == 12)
    return int.from_bytes(data[-2:], "big")


def test_payload_of_block_status_is_offered_to_who_has_contexts_of_the_export() -> None:
    bit = TransmissionFlag.BLOCK_STAT_PAYLOAD
    chosen = option(Option.SET_META_CONTEXT, contexts("disk", "base:allocation"))
    for name, expected in (("disk", bit), ("other", 0)):
        told = Talk(DISK, OTHER, extended=True)
        told.say(ASK)
        assert flags_of(told.say(option(Option.INFO, info_data("other", Info.BLOCK_SIZE)))) & bit
        told.say(chosen)
        assert flags_of(told.say(go(name))) & bit == expected
    told = Talk(DISK, extended=True)
    told.say(option(Option.STRUCTURED_REPLY))
    told.say(chosen)
    assert not flags_of(told.say(go("disk"))) & bit


@pytest.mark.parametrize("offered", [False, True])
def test_our_client_asks_for_them_first_and_does_without(offered: bool) -> None:
    client = ClientHandshake("disk")
    server = ServerHandshake(ToyCatalogue(DISK), extended=offered)
    carry(client, server, 7)
    assert client.info.mode is server.mode is (Mode.EXTENDED if offered else Mode.STRUCTURED)
    assert client.info.context == 0


def test_server_with_extended_headers_must_know_go() -> None:
    agreed = greeting() + reply(Option.EXTENDED_HEADERS, OptionReply.ACK) + CONTEXT
    agreed += reply(Option.SET_META_CONTEXT, OptionReply.ACK)
    whole = agreed + blocks(512, 4096, MAX_PAYLOAD) + export() + reply(Option.GO, OptionReply.ACK)
    assert hear(whole).info.mode is Mode.EXTENDED
    with pytest.raises(HandshakeError, match="does not know NBD_OPT_GO"):
        hear(agreed + reply(Option.GO, OptionReply.ERR_UNSUP))


# Requests as bytes


def requests(data: bytes, piece: int = PIECE) -> list[tuple[Request, bytes | None]]:
    return requests_in(RequestStream(Mode.EXTENDED), data, piece)


def ext(command: int, offset: int = 0, length: int = 0, flags: int = 0, **more) -> bytes:
    return request(command, offset, length, flags=flags, extended=True, **more)


def test_payloads_and_long_ranges_are_taken_apart_however_they_are_cut() -> None:
    said = (
        ext(Command.WRITE, 1, flags=PAYLOAD, payload=b"a" * 600)
        + ext(Command.TRIM, 1 << 40, (1 << 64) - 1)
        + ext(Command.BLOCK_STATUS, 2, flags=PAYLOAD, payload=b"b" * 12)
        + ext(Command.READ, 3, flags=PAYLOAD, payload=b"c" * 100_000)
        + ext(Command.WRITE, 4, payload=b"d")
        + ext(Command.FLUSH, flags=PAYLOAD)
        + ext(Command.DISC, length=99, flags=PAYLOAD)
    )
    whole = requests(said)
    assert [(one.length, payload) for one, payload in whole] == [
        (600, b"a" * 600),
        ((1 << 64) - 1, None),
        (12, b"b" * 12),
        (100_000, b"c" * 100_000),
        (1, b"d"),
        (0, b""),
        (99, None),
    ]
    assert not any(one.cut for one, _ in whole)
    for piece in (1, 31, 32, 33, 1000):
        assert requests(said, piece) == whole


def test_payload_that_is_too_long_is_cut() -> None:
    for command in (Command.WRITE, Command.BLOCK_STATUS, Command.TRIM, 77):
        ((one, payload),) = requests(ext(command, 0, MAX_PAYLOAD + 1, PAYLOAD))
        assert one.cut
        assert payload is None


def test_compact_header_among_extended_ones_is_no_request() -> None:
    with pytest.raises(ProtocolError, match="got 0x25609513, expected 0x21e41c71"):
        requests(request(Command.READ, 0, 512) + bytes(4))
    stream = RequestStream(Mode.STRUCTURED)
    said = ext(Command.READ, 0, 512)
    stream.get_buffer()[: len(said)] = said
    stream.received(len(said))
    with pytest.raises(ProtocolError, match="got 0x21e41c71, expected 0x25609513"):
        stream.next_request()


# Replies as bytes

REPLIES = Replies(Mode.EXTENDED)
READ = Request(0, Command.READ, 1, 4096, 8192)
STATUS = Request(0, Command.BLOCK_STATUS, 3, 4096, 1 << 40)


def answers(data: bytes, piece: int = PIECE) -> list[Answer]:
    stream = ReplyStream(Mode.EXTENDED, context=7)
    stream.expect(1, Command.READ, 4096, 8192)
    stream.expect(2, Command.WRITE, 4096, 8192)
    stream.expect(3, Command.BLOCK_STATUS, 4096, 1 << 40)
    return answers_in(stream, data, piece)


def status(context: int, extents: list[tuple[int, int]], *, last: bool = True) -> bytes:
    return REPLIES.block_status(STATUS, context, REPLIES.pack_extents(extents), last=last)


def chunk(kind: int, data: bytes, *, length: int | None = None, offset: int = 4096) -> bytes:
    size = len(data) if length is None else length
    words = (EXTENDED_REPLY_MAGIC, 4), (1, 2), (kind, 2), (3, 8), (offset, 8), (size, 8)
    return b"".join(number.to_bytes(size, "big") for number, size in words) + data


def test_extended_replies_are_understood_however_they_are_cut() -> None:
    extents = [(1 << 33, 3), (1 << 39, 1 << 40)]
    said = (
        REPLIES.data_header(READ, 4096, 4096, last=False) + b"a" * 4096
        + status(7, extents)
        + REPLIES.hole(READ, 8192, 4096, last=False)
        + REPLIES.error(READ._replace(cookie=2), errno.ENOSPC, "no room")
        + REPLIES.nothing(READ)
    )  # fmt: skip
    for piece in (1, 31, 1 << 20):
        mapped, failed, read = answers(said, piece)
        assert mapped.extents == extents
        assert failed.error.errno == errno.ENOSPC
        assert read.data == b"a" * 4096 + bytes(4096)


INVALID = "Protocol error: invalid payload for NBD_REPLY_TYPE_BLOCK_STATUS"
EXTENT = EXTENDED_EXTENT.pack(1, 1)
WRONG = {
    Replies(Mode.SIMPLE).success(READ): "invalid magic (got 0x67446698)",
    Replies(Mode.STRUCTURED).nothing(READ) + bytes(20): "invalid magic (got 0x668e33ef)",
    chunk(Chunk.BLOCK_STATUS, U32.pack(7) + bytes(8)): (
        "Unexpected reply type: 5 for CMD_BLOCK_STATUS"
    ),
    chunk(Chunk.BLOCK_STATUS_EXT, EXTENTS_HEADER.pack(7, 0)): INVALID,
    chunk(Chunk.BLOCK_STATUS_EXT, EXTENTS_HEADER.pack(7, 2) + EXTENT): INVALID,
    chunk(Chunk.BLOCK_STATUS_EXT, EXTENTS_HEADER.pack(7, 1) + EXTENT + b"!"): INVALID,
    chunk(Chunk.BLOCK_STATUS_EXT, b"", length=24 + 16 * MAX_SENT_EXTENTS): INVALID,
    chunk(Chunk.BLOCK_STATUS_EXT, b"", length=(1 << 64) - 1): INVALID,
    chunk(Chunk.NONE, b"", length=1 << 32): (
        "Protocol error: invalid payload for NBD_REPLY_TYPE_NONE"
    ),
    chunk(Chunk.NONE, b"", offset=8192): (
        "Protocol error: server sent chunk with another request's offset"
    ),
    status(8, [(1, 0)]): (
        "Protocol error: unexpected context id 8 for NBD_REPLY_TYPE_BLOCK_STATUS, "
        "when negotiated context id is 7"
    ),
    status(7, [(1, 0), (0, 0)]): "Protocol error: server sent status chunk with zero length",
    2 * status(7, [(1, 0)], last=False): "Several BLOCK_STATUS chunks in reply",
}  # fmt: skip


@pytest.mark.parametrize(("said", "text"), WRONG.items())
def test_extended_reply_that_is_wrong_ends_the_connection(said: bytes, text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        answers(said)
    assert str(caught.value) == text


# Turns of 64 bits


def test_turns_of_a_long_range_are_those_of_its_parts(seeded) -> None:
    size, granularity = 40 * GIB + 12345, 65536
    granules = Granules(size, granularity)
    for _ in range(50):
        start = seeded.randrange(size)
        granules.mark(start, seeded.randrange(1, min(3 * GIB, size - start + 1)))
    for _ in range(20):
        start = seeded.randrange(size)
        end = start + seeded.randrange(4 * GIB, 60 * GIB)
        turns = granules.turns(start, end, 1 << 20)
        assert turns.typecode == "Q"
        assert sum(turns) == end - start
        assert all(turns[1:])
        at = start
        for number, length in enumerate(turns):
            for place in {at, at + length // 2, at + length - 1} if length else ():
                assert granules.get(place) == bool(number % 2)
            at += length
        short = granules.turns(start, end, 3)
        assert len(short) >= min(3, len(turns))
        assert short == turns[: len(short)]


# The server


async def client_with(served: Served, *maps: str) -> Client:
    return await served.client(extended=True, maps=maps)


async def test_extended_client_reads_writes_and_is_refused(served: Served, seeded) -> None:
    served.export()
    client = await client_with(served)
    data = seeded.randbytes(3 * MIB)
    reply = await client.write(4096, data)
    assert (reply.error, reply.simple, reply.chunks) == (0, False, [(Chunk.NONE, b"")])
    assert await client.read(4096, 3 * MIB) == data
    assert (await client.ask(Command.FLUSH)).chunks == [(Chunk.NONE, b"")]
    reply = await client.ask(Command.READ, 0, MAX_PAYLOAD + 1)
    text = f"len ({MAX_PAYLOAD + 1}) is larger than max len ({MAX_PAYLOAD})"
    assert (reply.error, reply.message) == (errno.EINVAL, text)
    reply = await client.ask(Command.WRITE_ZEROES, 4096, 1 << 63)
    text = f"operation past EOF; From: 4096, Len: {1 << 63}, Size: {4 * MIB}"
    assert (reply.error, reply.message) == (errno.ENOSPC, text)
    assert await client.read(4096, 3 * MIB) == data


async def test_payload_of_a_command_that_has_none_is_passed_over(served: Served) -> None:
    served.export()
    served.export(export_id="r", name="fixed", writable=False)
    client = await client_with(served)
    reply = await client.ask(Command.READ, 1 << 60, flags=PAYLOAD, payload=b"x" * 70_000)
    assert (reply.error, reply.message) == (
        errno.EINVAL,
        f"operation past EOF; From: {1 << 60}, Len: 0, Size: {4 * MIB}",
    )
    for command, name in ((Command.READ, "read"), (Command.TRIM, "trim"), (77, "<unknown>")):
        reply = await client.ask(command, 0, flags=PAYLOAD, payload=b"x" * 100)
        text = f"unsupported flags for command {name} (got 0x20)"
        assert (reply.error, reply.message) == (errno.EINVAL, text)
    reader = await served.client(name="fixed", extended=True)
    reply = await reader.ask(Command.TRIM, 0, flags=PAYLOAD, payload=b"x" * 100)
    assert (reply.error, reply.message) == (errno.EPERM, "Export is read-only")
    assert await client.read(0, 512) == bytes(512)


@pytest.mark.parametrize("command", [Command.WRITE, Command.BLOCK_STATUS, Command.CACHE])
async def test_payload_that_is_too_long_is_refused_and_ends_the_connection(
    served: Served, command: int
) -> None:
    served.export()
    client = await client_with(served, "base:allocation")
    reply = await client.ask(command, 0, MAX_PAYLOAD + 1, flags=PAYLOAD)
    text = f"len ({MAX_PAYLOAD + 1}) is larger than max len ({MAX_PAYLOAD})"
    assert (reply.error, reply.message) == (errno.EINVAL, text)
    assert await client.closed() == b""


async def test_compact_request_after_extended_headers_ends_the_connection(
    served: Served,
) -> None:
    served.export()
    client, other = await client_with(served), await client_with(served)
    client.send(write(0, b"x" * 512))
    assert await client.closed() == b""
    assert await other.read(0, 512) == bytes(512)


def extents_of(reply) -> dict[int, list[tuple[int, int]]]:
    assert not reply.error, reply.message
    found = {}
    for kind, data in reply.chunks:
        context, count = EXTENTS_HEADER.unpack_from(data)
        extents = list(EXTENDED_EXTENT.iter_unpack(data[EXTENTS_HEADER.size :]))
        assert (kind, len(extents)) == (Chunk.BLOCK_STATUS_EXT, count)
        found[context] = extents
    return found


async def test_block_status_answers_in_the_contexts_that_its_payload_names(
    served: Served,
) -> None:
    bitmap = served.bitmap("disk", "b", enabled=False)
    bitmap.mark(65536, 65536)
    served.disk.fill(0, b"x" * BLOCK)
    served.export(bitmaps=["b"])
    client = await client_with(served, "base:allocation", "qemu:dirty-bitmap:b")

    async def ask(payload: bytes):
        return await client.ask(Command.BLOCK_STATUS, 0, flags=PAYLOAD, payload=payload)

    base = [(BLOCK, 0), (4 * MIB - BLOCK, 3)]
    dirty = [(65536, 0), (65536, 1), (4 * MIB - 131072, 0)]
    everything = await client.ask(Command.BLOCK_STATUS, 0, 4 * MIB)
    assert extents_of(everything) == {0: base, 2: dirty}
    assert extents_of(await ask(status_payload(4 * MIB, 2))) == {2: dirty}
    assert extents_of(await ask(status_payload(4 * MIB, 2, 0))) == {0: base, 2: dirty}
    for payload in (
        b"",
        bytes(7),
        status_payload(4 * MIB),
        status_payload(4 * MIB, 1),
        status_payload(4 * MIB, 0, 0),
        status_payload(4 * MIB, 0, 2, 0),
        status_payload(4 * MIB, 0) + b"!",
    ):
        reply = await ask(payload)
        expected = (errno.EINVAL, "CMD_BLOCK_STATUS payload not valid")
        assert (reply.error, reply.message) == expected, payload
    reply = await ask(status_payload(4 * MIB + 1, 0))
    text = f"operation past EOF; From: 0, Len: {4 * MIB + 1}, Size: {4 * MIB}"
    assert (reply.error, reply.message) == (errno.EINVAL, text)
    reply = await ask(status_payload(0, 0))
    assert (reply.error, reply.message) == (errno.EINVAL, "need non-zero length")


async def test_block_status_with_a_payload_needs_contexts(served: Served) -> None:
    served.export()
    client = await client_with(served)
    payload = status_payload(4 * MIB, 0)
    reply = await client.ask(Command.BLOCK_STATUS, 0, flags=PAYLOAD, payload=payload)
    assert (reply.error, reply.message) == (errno.EINVAL, "CMD_BLOCK_STATUS not negotiated")


class Huge(MemoryDriver):
    """A disk of zeroes that keeps nothing but a log."""

    def __init__(self, context: OpenContext, length: int) -> None:
        super().__init__(context, 0)
        self.length = length

    async def pwrite_zeroes(self, offset: int, length: int, flags: Any = WriteFlags.NONE) -> None:
        self.log.append(("zero", offset, length))

    async def pdiscard(self, offset: int, length: int) -> None:
        self.log.append(("discard", offset, length))

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        return [Extent(offset, length, Status.ZERO)]


async def test_ranges_above_4_gib_are_mapped_zeroed_and_discarded(served: Served) -> None:
    size = 3 * MAX_STATUS
    disk = Huge(served.disks.context("huge"), size)
    node = served.disks.filter_node("huge", {})
    served.disks.opened(node, disk)
    node.discard = True
    served.export(node="huge", export_id="h", name="huge")
    client = await served.client(name="huge", extended=True, maps=("base:allocation",))
    reply = await client.ask(Command.BLOCK_STATUS, 0, size)
    assert extents_of(reply) == {0: [(MAX_STATUS, 3)]}
    assert not (await client.ask(Command.TRIM, 512, size - 512)).error
    assert disk.log[:2] == [("discard", 512, ZERO_PIECE - 512), ("discard", ZERO_PIECE, ZERO_PIECE)]
    assert sum(length for _, _, length in disk.log) == size - 512
    disk.log.clear()
    assert not (await client.ask(Command.WRITE_ZEROES, 0, 5 * GIB + 512)).error
    assert disk.log[-1] == ("zero", 5 * GIB, 512)
    assert sum(length for _, _, length in disk.log) == 5 * GIB + 512
