"""What a client says, and how a server's answers are taken apart."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blkxact.nbd.protocol import (
    CHUNK,
    CLIENT_FLAGS,
    EXTENDED_CHUNK,
    EXTENDED_REPLY_MAGIC,
    EXTENDED_REQUEST,
    EXTENDED_REQUEST_MAGIC,
    GREETING,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STATUS_PAYLOAD,
    STRUCTURED_REPLY_MAGIC,
    U32,
    Chunk,
    Command,
    Info,
    Option,
    OptionReply,
    TransmissionFlag,
    pack_name,
)
from blkxact.nbd.server_handshake import ServerHandshake, Step

FIXED = CLIENT_FLAGS.pack(1)
FIXED_NO_ZEROES = CLIENT_FLAGS.pack(3)


@dataclass
class ToyOffer:
    name: str
    size: int = 1 << 20
    description: str | None = None
    flags: TransmissionFlag = TransmissionFlag.HAS_FLAGS
    minimum_block: int = 1
    contexts: Mapping[int, str] = field(default_factory=lambda: {0: "base:allocation"})


class ToyCatalogue:
    def __init__(self, *offers: ToyOffer) -> None:
        self._offers = {offer.name: offer for offer in offers}

    def offers(self) -> list[ToyOffer]:
        return list(self._offers.values())

    def find_offer(self, name: str) -> ToyOffer | None:
        return self._offers.get(name)


def option(number: int, data: bytes = b"") -> bytes:
    return OPTION.pack(OPTION_MAGIC, number, len(data)) + data


def info_data(name: str, *wanted: Info) -> bytes:
    data = pack_name(name) + len(wanted).to_bytes(2, "big")
    return data + b"".join(int(one).to_bytes(2, "big") for one in wanted)


def go(name: str, *wanted: Info) -> bytes:
    return option(Option.GO, info_data(name, *wanted))


def contexts(name: str, *queries: str) -> bytes:
    data = pack_name(name) + len(queries).to_bytes(4, "big")
    return data + b"".join(pack_name(query) for query in queries)


def request(
    command: int,
    offset: int = 0,
    length: int = 0,
    *,
    flags: int = 0,
    cookie: int = 7,
    payload: bytes = b"",
    extended: bool = False,
) -> bytes:
    layout, magic = REQUEST, REQUEST_MAGIC
    if extended:
        layout, magic = EXTENDED_REQUEST, EXTENDED_REQUEST_MAGIC
    header = layout.pack(magic, flags, command, cookie, offset, length or len(payload))
    return header + payload


def write(offset: int, data: bytes, **more: Any) -> bytes:
    return request(Command.WRITE, offset, payload=data, **more)


def status_payload(length: int, *numbers: int) -> bytes:
    return STATUS_PAYLOAD.pack(length) + b"".join(map(U32.pack, numbers))


def option_replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return ``(option, reply, data)`` of all answers; nothing may be left over."""
    found = []
    at = 0
    while at < len(data):
        magic, number, reply, length = OPTION_REPLY.unpack_from(data, at)
        assert magic == OPTION_REPLY_MAGIC
        at += OPTION_REPLY.size
        assert len(data) >= at + length
        found.append((number, reply, data[at : at + length]))
        at += length
    return found


def read_answers(connection: socket.socket) -> bytes:
    """Return the answers to one option, up to the last."""
    data = b""
    while True:
        data += connection.recv(1 << 16)
        try:
            replies = option_replies(data)
        except (AssertionError, struct.error):  # not complete
            continue
        if replies and (replies[-1][1] == 1 or replies[-1][1] & 1 << 31):
            return data


class Talk:
    """A handshake without sockets."""

    def __init__(
        self,
        *offers: ToyOffer,
        flags: bytes = FIXED_NO_ZEROES,
        tls: bool = False,
        extended: bool = False,
    ) -> None:
        self.handshake = ServerHandshake(ToyCatalogue(*offers), tls=tls, extended=extended)
        self.greeting = bytes(self.handshake.output)
        self.handshake.output.clear()
        assert len(self.greeting) == GREETING.size
        self.answers = bytearray()
        self.last = Step.STARVED
        self.say(flags)

    def say(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return what the server answered."""
        self.handshake.receive(data)
        answers = bytearray()
        step = Step.ANSWERED
        while step is Step.ANSWERED:
            step = self.handshake.step()
            answers += self.handshake.output
            self.handshake.output.clear()
        self.last = step
        self.answers += answers
        if step is Step.TRANSMIT and not answers.startswith(OPTION_REPLY_MAGIC.to_bytes(8, "big")):
            return []
        return option_replies(bytes(answers))

    def refusal(self, data: bytes) -> tuple[OptionReply, str]:
        """Return the error that is the last answer."""
        *_, (_, reply, text) = self.say(data)
        return OptionReply(reply), text.decode()


@dataclass
class Reply:
    """A reply to a request: simple, or in chunks."""

    cookie: int
    error: int = 0
    message: str = ""
    chunks: list[tuple[Chunk, bytes]] = field(default_factory=list)
    simple: bool = False
    data: bytes = b""


class ReplyReader:
    """Takes the stream of replies apart. ``reads`` has the lengths of simple reads by cookie."""

    def __init__(self, reads: Mapping[int, int] | None = None) -> None:
        self._reads = {} if reads is None else reads
        self.extended = False

    async def next(self, read_exactly) -> Reply:
        reply = None
        while True:
            magic = int.from_bytes(head := await read_exactly(4), "big")
            if magic == SIMPLE_REPLY_MAGIC:
                assert reply is None
                assert not self.extended
                rest = await read_exactly(SIMPLE_REPLY.size - 4)
                _, error, cookie = SIMPLE_REPLY.unpack(head + rest)
                length = 0 if error else self._reads.get(cookie, 0)
                return Reply(cookie, error, simple=True, data=await read_exactly(length))
            expected = EXTENDED_REPLY_MAGIC if self.extended else STRUCTURED_REPLY_MAGIC
            assert magic == expected, hex(magic)
            layout = EXTENDED_CHUNK if self.extended else CHUNK
            rest = await read_exactly(layout.size - 4)
            _, flags, kind, cookie, *_, length = layout.unpack(head + rest)
            data = await read_exactly(length)
            reply = reply or Reply(cookie)
            assert reply.cookie == cookie
            if kind & 1 << 15:
                reply.error = int.from_bytes(data[:4], "big")
                reply.message = data[6:].decode()
            reply.chunks.append((Chunk(kind), data))
            if flags & 1:
                return reply
