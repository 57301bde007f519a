"""What a server says to the handshake of our client, without sockets."""

from __future__ import annotations

from blkxact.nbd.client_handshake import ClientHandshake, ClientStep
from blkxact.nbd.protocol import (
    GREETING,
    GREETING_MAGIC,
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    U32,
    Info,
    Option,
    OptionReply,
    TransmissionFlag,
)
from blkxact.nbd.server_handshake import ServerHandshake, Step

ACK = OptionReply.ACK
FLAGS = int(TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH)


def greeting(flags: int = 3) -> bytes:
    return GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, flags)


def reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def export(size: int = 1 << 20, flags: int = FLAGS) -> bytes:
    return reply(Option.GO, OptionReply.INFO, INFO_EXPORT.pack(Info.EXPORT, size, flags))


def blocks(minimum: int, preferred: int, maximum: int) -> bytes:
    data = INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, minimum, preferred, maximum)
    return reply(Option.GO, OptionReply.INFO, data)


COMPACT = greeting() + reply(Option.EXTENDED_HEADERS, OptionReply.ERR_UNSUP)
STRUCTURED = COMPACT + reply(Option.STRUCTURED_REPLY, ACK)
CONTEXT = reply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, U32.pack(7) + b"base:allocation")
AGREED = STRUCTURED + CONTEXT + reply(Option.SET_META_CONTEXT, ACK)
WHOLE = AGREED + blocks(512, 4096, 1 << 25) + export() + reply(Option.GO, ACK)
PLAIN = COMPACT + reply(Option.STRUCTURED_REPLY, OptionReply.ERR_UNSUP)
OLD = PLAIN + reply(Option.GO, OptionReply.ERR_UNSUP)


def carry(client: ClientHandshake, server: ServerHandshake, piece: int = 1 << 20) -> None:
    """Carry bytes between the two, in pieces, until the client has its export."""
    to_client, to_server = bytearray(server.output), bytearray()
    server.output.clear()
    while True:
        client.receive(bytes(to_client[:piece]))
        del to_client[:piece]
        step = client.step()
        to_server += client.output
        client.output.clear()
        if step is ClientStep.START_TLS:
            client.tls_started()
            server.tls_started()
            continue
        if step is ClientStep.TRANSMIT:
            return
        server.receive(bytes(to_server[:piece]))
        del to_server[:piece]
        while server.step() is Step.ANSWERED:
            pass
        to_client += server.output
        server.output.clear()


def hear(data: bytes, name: str = "disk", **how) -> ClientHandshake:
    """Return a handshake in which the server has said all of ``data``."""
    client = ClientHandshake(name, **how)
    client.receive(data)
    client.step()
    return client
