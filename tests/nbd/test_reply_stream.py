"""Replies of a server taken apart, without sockets."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest

from blkxact.nbd.input_buffer import DIRECT_SIZE
from blkxact.nbd.protocol import (
    CHUNK,
    CHUNK_ERROR,
    STRUCTURED_REPLY_MAGIC,
    U32,
    Chunk,
    Command,
    Mode,
    ProtocolError,
)
from blkxact.nbd.replies import Replies
from blkxact.nbd.reply_stream import (
    MAX_CHUNKS,
    MAX_ERROR_PAYLOAD,
    MAX_EXTENTS,
    MAX_SENT_EXTENTS,
    Answer,
    ReplyStream,
)
from blkxact.nbd.request_stream import Request

from .streams import PIECE, answers_in

READ, WRITE, STATUS = Command.READ, Command.WRITE, Command.BLOCK_STATUS
K = 1024
LARGE = DIRECT_SIZE + 4 * K


class Server:
    """A stream of replies to three requests: a read, a write, a block status at offset 4096."""

    def __init__(self, mode: Mode = Mode.STRUCTURED, length: int = 8 * K) -> None:
        self.stream = ReplyStream(mode, context=7)
        self.stream.expect(1, READ, 4 * K, length)
        self.stream.expect(2, WRITE, 4 * K, length)
        self.stream.expect(3, STATUS, 4 * K, length)

    def say(self, data: bytes, piece: int = PIECE) -> list[Answer]:
        """Return the answers that came of it."""
        return answers_in(self.stream, data, piece)


REPLIES = Replies(Mode.STRUCTURED)


def asked(cookie: int) -> Request:
    return Request(0, READ, cookie, 4 * K, 8 * K)


def chunk(kind: int, data: bytes = b"", *, cookie: int = 1, flags: int = 0) -> bytes:
    return CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(data)) + data


def data(offset: int, payload: bytes, *, last: bool = False, cookie: int = 1) -> bytes:
    return REPLIES.data_header(asked(cookie), offset, len(payload), last=last) + payload


def hole(offset: int, length: int, *, last: bool = False) -> bytes:
    return REPLIES.hole(asked(1), offset, length, last=last)


def simple(cookie: int, code: int = 0) -> bytes:
    if code:
        return Replies(Mode.SIMPLE).error(asked(cookie), code, "")
    return REPLIES.success(asked(cookie))


def done(cookie: int) -> bytes:
    return REPLIES.nothing(asked(cookie))


def block_status(cookie: int, context: int, extents: list[tuple[int, int]], *, last: bool) -> bytes:
    return REPLIES.block_status(asked(cookie), context, REPLIES.pack_extents(extents), last=last)


def error_of(said: bytes, **how) -> str:
    with pytest.raises(ProtocolError) as caught:
        Server(**how).say(said)
    return str(caught.value)


def test_replies_out_of_order_and_in_chunks_answer_their_requests() -> None:
    extents = [(K, 3), (7 * K, 0)]
    said = (
        hole(8 * K, 2 * K)
        + block_status(3, 7, extents, last=False)
        + data(4 * K, b"a" * 4 * K)
        + simple(2)
        + done(3)
        + data(10 * K, b"b" * 2 * K, last=True)
    )
    write, status, read = Server().say(said)
    assert (write.cookie, write.error) == (2, None)
    assert (status.cookie, status.error, status.extents) == (3, None, extents)
    assert read.data == b"a" * 4 * K + bytes(2 * K) + b"b" * 2 * K


def test_replies_cut_at_every_byte_give_the_same_answers() -> None:
    said = (
        data(4 * K, b"x" * 100)
        + hole(4 * K + 100, 28)
        + REPLIES.error(asked(2), errno.ENOSPC, "no room")
        + data(4 * K + 128, b"y" * 72, last=True)
        + block_status(3, 7, [(200, 1)], last=True)
    )
    expected = [(2, errno.ENOSPC), (1, None), (3, None)]
    for piece in range(1, len(said) + 1):
        answers = Server(length=200).say(said, piece)
        assert [(a.cookie, a.error and a.error.errno) for a in answers] == expected
        assert answers[1].data == b"x" * 100 + bytes(28) + b"y" * 72


@pytest.mark.parametrize("mode", [Mode.SIMPLE, Mode.STRUCTURED])
def test_large_data_arrives_whole_however_it_is_cut(mode: Mode, seeded) -> None:
    payload = seeded.randbytes(LARGE)
    said = simple(1) + payload
    if mode is Mode.STRUCTURED:
        border = 3 * K
        said = data(4 * K + border, payload[border:]) + data(4 * K, payload[:border], last=True)
    for piece in (1, 7, 1000, 65536, 1 << 20):
        (answer,) = Server(mode, length=LARGE).say(said, piece)
        assert answer.data == payload


def test_error_among_the_chunks_fails_the_read_when_all_of_it_has_come() -> None:
    server = Server()
    failed = chunk(Chunk.ERROR_OFFSET, CHUNK_ERROR.pack(5, 0) + bytes(8))
    assert server.say(data(4 * K, b"a" * K) + failed + hole(5 * K, K)) == []
    (answer,) = server.say(done(1))
    assert answer.error is not None
    assert answer.error.errno == errno.EIO


def test_simple_errors_have_no_data() -> None:
    first, second = Server(mode=Mode.SIMPLE).say(simple(1, errno.EPERM) + simple(2))
    assert first.error is not None
    assert first.error.errno == errno.EPERM
    assert second == Answer(2, None, bytearray(), [])


def test_extents_beyond_the_limit_are_left_for_another_time() -> None:
    many = block_status(3, 7, [(1, 0)] * (MAX_EXTENTS + 5), last=True)
    (answer,) = Server().say(many)
    assert len(answer.extents) == MAX_EXTENTS


OUTSIDE = "Protocol error: server sent chunk exceeding requested region"
OVERLAP = "Protocol error: server sent overlapping chunks"
WRONG = {
    b"HTTP/1.1 400 Bad": "invalid magic (got 0x48545450)",
    simple(9): "Protocol error: reply to an unknown request 0x9",
    done(9) + b"": "Protocol error: reply to an unknown request 0x9",
    simple(2) + simple(2): "Protocol error: reply to an unknown request 0x2",
    simple(1): "Protocol error: simple reply when structured reply chunk was expected",
    hole(4 * K, K) + simple(1, errno.EIO): (
        "Protocol error: simple reply when structured reply chunk was expected"
    ),
    simple(3): "Server did not reply with any status extents",
    done(3): "Server did not reply with any status extents",
    data(4 * K - 1, b"a" * K): OUTSIDE,
    data(12 * K - 1, b"aa"): OUTSIDE,
    data(4 * K, b"a" * (8 * K + 1)): OUTSIDE,
    data((1 << 64) - 1, b"aa"): OUTSIDE,
    hole(12 * K, 1): OUTSIDE,
    hole(4 * K, 0): OUTSIDE,
    hole(4 * K, (1 << 32) - 1): OUTSIDE,
    hole(4 * K, K) + data(5 * K - 1, b"a"): OVERLAP,
    data(5 * K, b"a" * K) + hole(4 * K, K + 1): OVERLAP,
    2 * data(5 * K, b"a" * K): OVERLAP,
    hole(4 * K, 8 * K) + hole(6 * K, 1): OVERLAP,
    hole(4 * K, K, last=True): "Protocol error: server left out a part of what was read",
    done(1): "Protocol error: server left out a part of what was read",
    hole(4 * K, K) + data(6 * K, b"a" * 6 * K, last=True): (
        "Protocol error: server left out a part of what was read"
    ),
    data(4 * K, b"a", cookie=2): "Unexpected reply type: 1 for CMD_WRITE",
    chunk(Chunk.OFFSET_HOLE, bytes(12), cookie=3): "Unexpected reply type: 2 for CMD_BLOCK_STATUS",
    block_status(1, 7, [(1, 1)], last=True): "Unexpected reply type: 5 for CMD_READ",
    chunk(77): "Unexpected reply type: 77 for CMD_READ",
    chunk(Chunk.NONE): (
        "Protocol error: NBD_REPLY_TYPE_NONE chunk without NBD_REPLY_FLAG_DONE flag set"
    ),
    chunk(Chunk.NONE, b"!", flags=1): "Protocol error: invalid payload for NBD_REPLY_TYPE_NONE",
    chunk(Chunk.OFFSET_DATA, bytes(8)): (
        "Protocol error: invalid payload for NBD_REPLY_TYPE_OFFSET_DATA"
    ),
    chunk(Chunk.OFFSET_HOLE, bytes(13)): (
        "Protocol error: invalid payload for NBD_REPLY_TYPE_OFFSET_HOLE"
    ),
    chunk(Chunk.ERROR, bytes(5)): "Protocol error: invalid payload for structured error",
    chunk(Chunk.ERROR, bytes(6)): (
        "Protocol error: server sent structured error chunk with error = 0"
    ),
    chunk(Chunk.ERROR, CHUNK_ERROR.pack(5, 2) + b"!"): (
        "Protocol error: server sent structured error chunk with incorrect message size"
    ),
    CHUNK.pack(STRUCTURED_REPLY_MAGIC, 0, Chunk.ERROR, 1, MAX_ERROR_PAYLOAD + 1): (
        "Protocol error: invalid payload for structured error"
    ),
    CHUNK.pack(STRUCTURED_REPLY_MAGIC, 0, Chunk.BLOCK_STATUS, 3, 4 + 8 * MAX_SENT_EXTENTS + 8): (
        "Protocol error: invalid payload for NBD_REPLY_TYPE_BLOCK_STATUS"
    ),
    CHUNK.pack(STRUCTURED_REPLY_MAGIC, 0, Chunk.OFFSET_DATA, 1, 1 << 31): OUTSIDE,
    chunk(Chunk.BLOCK_STATUS, U32.pack(7), cookie=3): (
        "Protocol error: invalid payload for NBD_REPLY_TYPE_BLOCK_STATUS"
    ),
    chunk(Chunk.BLOCK_STATUS, U32.pack(7) + bytes(9), cookie=3): (
        "Protocol error: invalid payload for NBD_REPLY_TYPE_BLOCK_STATUS"
    ),
    block_status(3, 8, [(1, 1)], last=True): (
        "Protocol error: unexpected context id 8 for NBD_REPLY_TYPE_BLOCK_STATUS, "
        "when negotiated context id is 7"
    ),
    block_status(3, 7, [(1, 1), (0, 1)], last=True): (
        "Protocol error: server sent status chunk with zero length"
    ),
    2 * block_status(3, 7, [(1, 1)], last=False): (
        "Several BLOCK_STATUS chunks in reply"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("said", "text"), WRONG.items())
def test_reply_that_fits_no_request_ends_the_connection(said: bytes, text: str) -> None:
    assert error_of(said) == text


def test_chunks_are_refused_where_simple_replies_were_agreed_upon() -> None:
    text = "Protocol error: structured reply where none was agreed upon"
    assert error_of(hole(4 * K, K), mode=Mode.SIMPLE) == text


def test_reply_in_more_chunks_than_sectors_ends_the_connection() -> None:
    failed = chunk(Chunk.ERROR, CHUNK_ERROR.pack(5, 0))
    server = Server()
    assert server.say(failed * MAX_CHUNKS) == []
    with pytest.raises(ProtocolError, match="too many chunks"):
        server.say(failed)


def test_pieces_in_any_order_cover_the_read_exactly(seeded) -> None:
    for _ in range(50):
        payload = seeded.randbytes(8 * K)
        borders = sorted({0, 8 * K, *(seeded.randrange(8 * K) for _ in range(20))})
        pieces = [data(4 * K + a, payload[a:b]) for a, b in pairwise(borders)]
        seeded.shuffle(pieces)
        (answer,) = Server().say(b"".join(pieces) + done(1))
        assert answer.data == payload


def test_replies_changed_at_random_answer_or_end_the_connection(seeded) -> None:
    good = (
        data(4 * K, b"a" * 4 * K)
        + hole(8 * K, 4 * K, last=True)
        + block_status(3, 7, [(8 * K, 0)], last=True)
        + simple(2)
    )
    heads = [*range(28), *range(4 * K + 28, len(good))]
    for _ in range(5000):
        said = bytearray(good)
        for _ in range(seeded.randint(1, 3)):
            said[seeded.choice(heads)] = seeded.choice([0, 1, 255, seeded.randrange(256)])
        try:
            answers = Server().say(bytes(said), seeded.choice([1000, 1 << 20]))
        except ProtocolError:
            continue
        assert len(answers) <= 3
        assert all(len(answer.data) in {0, 8 * K} for answer in answers)
