"""From bytes to requests."""

from __future__ import annotations

import pytest

from blkxact.nbd.input_buffer import DIRECT_SIZE, READ_SIZE
from blkxact.nbd.protocol import MAX_PAYLOAD, Command, Mode, ProtocolError
from blkxact.nbd.request_stream import Request, RequestStream

from .streams import put, requests, requests_in
from .talk import request, write


def run(pieces: list[bytes]) -> list[tuple[Request, bytes | None]]:
    stream = RequestStream(Mode.STRUCTURED)
    found = [one for piece in pieces for one in requests_in(stream, piece)]
    assert stream.next_request() is None
    return found


WORDS = b"".join(
    [
        request(Command.READ, 4096, 512, cookie=1),
        write(0, b"a" * 600, cookie=2, flags=1),
        write(10, b"", cookie=3),
        request(Command.FLUSH, cookie=4),
        write(1 << 40, b"b" * 30, cookie=2**64 - 1),
        request(Command.BLOCK_STATUS, 0, 2**32 - 1, cookie=5, flags=8),
    ]
)


def test_requests_are_taken_apart() -> None:
    found = run([WORDS])
    assert [one.cookie for one, _ in found] == [1, 2, 3, 4, 2**64 - 1, 5]
    assert found[0][0] == Request(0, Command.READ, 1, 4096, 512)
    assert found[1] == (Request(1, Command.WRITE, 2, 0, 600), b"a" * 600)
    assert found[2][1] == b""
    assert found[4][0].offset == 1 << 40
    assert found[5][0].length == 2**32 - 1


def test_requests_cut_at_every_byte_are_the_same() -> None:
    whole = run([WORDS])
    for cut in range(1, len(WORDS)):
        assert run([WORDS[:cut], WORDS[cut:]]) == whole
    assert run([bytes([byte]) for byte in WORDS]) == whole


@pytest.mark.parametrize("length", [DIRECT_SIZE - 1, DIRECT_SIZE, READ_SIZE + 1, 3 << 20])
def test_large_payload_in_any_pieces_arrives_whole(length: int, seeded) -> None:
    data = seeded.randbytes(length)
    words = request(Command.READ, 0, 1, cookie=9) * 3 + write(0, data, cookie=1)
    words += write(5, b"after", cookie=2)
    for step in (1000, 65536, READ_SIZE - 1, len(words)):
        found = run([words[at : at + step] for at in range(0, len(words), step)])
        assert [one.cookie for one, _ in found] == [9, 9, 9, 1, 2]
        assert found[3][1] == data
        assert found[4][1] == b"after"


def test_payload_that_is_held_is_not_overwritten() -> None:
    stream = RequestStream(Mode.STRUCTURED)
    put(stream, write(0, b"first" * 100))
    first = stream.next_request()
    assert first is not None
    assert first.payload is not None
    stream.hold(first.payload)
    put(stream, write(0, b"again" * 100))
    second = stream.next_request()
    assert second is not None
    assert second.payload is not None
    assert bytes(first.payload) == b"first" * 100
    assert bytes(second.payload) == b"again" * 100


def test_payload_that_is_held_survives_when_a_cut_request_is_moved() -> None:
    stream = RequestStream(Mode.STRUCTURED)
    later = write(0, b"again" * 100)
    put(stream, write(0, b"first" * 100) + later[:40])
    first = stream.next_request()
    assert first is not None
    assert first.payload is not None
    stream.hold(first.payload)
    put(stream, later[40:])
    [(_, payload)] = requests(stream)
    assert payload == b"again" * 100
    assert bytes(first.payload) == b"first" * 100


def test_buffers_of_payloads_are_used_again() -> None:
    stream = RequestStream(Mode.STRUCTURED)
    buffers = set()
    for _ in range(5):
        words = write(0, bytes(1 << 20))
        while words:
            words = words[put(stream, words) :]
            one = stream.next_request()
        assert one is not None
        assert one.payload is not None
        buffers.add(id(one.payload.obj))
        stream.give_back(one.payload)
    assert len(buffers) == 1


def test_payload_beyond_the_limit_is_announced_without_it() -> None:
    stream = RequestStream(Mode.STRUCTURED)
    put(stream, request(Command.WRITE, 0, MAX_PAYLOAD + 1))
    one = stream.next_request()
    assert one is not None
    assert one.payload is None


def test_words_that_are_no_request_end_the_connection() -> None:
    stream = RequestStream(Mode.STRUCTURED)
    put(stream, b"GET / HTTP/1.1\r\nHost: disk\r\n\r\n")
    with pytest.raises(ProtocolError, match="invalid magic"):
        stream.next_request()


def test_requests_of_random_sizes_in_random_pieces_are_the_same(seeded) -> None:
    said = []
    for cookie in range(300):
        if seeded.random() < 0.3:
            said.append((request(Command.READ, 0, 8, cookie=cookie), None))
        else:
            size = seeded.choice([1, 512, 4096, 60_000, DIRECT_SIZE, 100_000])
            data = seeded.randbytes(size)
            said.append((write(0, data, cookie=cookie), data))
    words = b"".join(data for data, _ in said)
    pieces = []
    while words:
        size = seeded.choice([1, 27, 28, 4096, 65536, 300_000])
        pieces.append(words[:size])
        words = words[size:]
    found = run(pieces)
    assert [one.cookie for one, _ in found] == list(range(300))
    assert [payload for _, payload in found] == [payload for _, payload in said]
