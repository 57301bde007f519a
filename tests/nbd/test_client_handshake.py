"""The client's handshake, without sockets."""

from __future__ import annotations

import pytest

from blkxact.nbd.client_handshake import (
    MAX_OPTION_REPLIES,
    MAX_OPTION_REPLY,
    ClientHandshake,
    ClientStep,
    ExportInfo,
)
from blkxact.nbd.option_reply import HandshakeError
from blkxact.nbd.protocol import (
    EXPORT_SIZE,
    GREETING,
    GREETING_MAGIC,
    OLDSTYLE_EXPORT,
    OLDSTYLE_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    U32,
    Mode,
    Option,
    OptionReply,
    pack_name,
)
from blkxact.nbd.server_handshake import ServerHandshake

from .server_words import (
    AGREED,
    COMPACT,
    CONTEXT,
    FLAGS,
    OLD,
    PLAIN,
    STRUCTURED,
    WHOLE,
    blocks,
    carry,
    export,
    greeting,
    hear,
    reply,
)
from .talk import ToyCatalogue, ToyOffer

DISK = ToyOffer("disk", description="a disk", contexts={7: "base:allocation", 8: "other:one"})
ACK = OptionReply.ACK


def refusal(data: bytes, name: str = "disk", **how) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        hear(data, name, **how)
    return caught.value


@pytest.mark.parametrize("tls", [False, True])
def test_handshake_with_our_server_in_pieces_of_any_size_opens_the_export(tls: bool) -> None:
    for piece in (1, 2, 3, 7, 19, 1000):
        client = ClientHandshake("disk", tls=tls)
        server = ServerHandshake(ToyCatalogue(DISK), tls=tls)
        carry(client, server, piece)
        assert client.info.size == DISK.size
        assert client.info.context == 7
        assert client.info.mode is Mode.STRUCTURED
        assert server.offer is DISK


def test_handshake_cut_at_every_byte_ends_the_same() -> None:
    expected = ExportInfo(1 << 20, FLAGS, 512, 4096, 1 << 25, Mode.STRUCTURED, context=7)
    for cut in range(len(WHOLE)):
        client = hear(WHOLE[:cut])
        sent = bytes(client.output)
        client.output.clear()
        client.receive(WHOLE[cut:] + b"rest")
        assert client.step() is ClientStep.TRANSMIT
        assert client.info == expected
        assert sent + client.output == hear(WHOLE).output
        assert client.rest() == b"rest"


def test_handshake_changed_at_random_ends_or_is_refused(seeded) -> None:
    for _ in range(3000):
        data = bytearray(WHOLE)
        for _ in range(seeded.randint(1, 3)):
            at = seeded.randrange(len(data))
            data[at] = seeded.choice([0, 1, 255, seeded.randrange(256)])
        if seeded.random() < 0.3:
            del data[seeded.randrange(len(data)) :]
        try:
            client = hear(bytes(data))
        except HandshakeError:
            continue
        assert client.info.size >= 0


def test_server_without_structured_replies_gives_an_export_without_context() -> None:
    info = hear(PLAIN + export() + reply(Option.GO, ACK)).info
    assert info == ExportInfo(1 << 20, FLAGS)


@pytest.mark.parametrize("padding", [0, 124])
def test_server_without_go_is_asked_for_its_list_and_the_name(padding: int) -> None:
    listed = reply(Option.LIST, OptionReply.SERVER, pack_name("disk") + b"a disk")
    end = listed + reply(Option.LIST, ACK) + EXPORT_SIZE.pack(12345, FLAGS) + bytes(padding)
    flags = 1 if padding else 3
    client = hear(greeting(flags) + OLD[GREETING.size :] + end)
    assert client.info == ExportInfo(12345, FLAGS)
    assert not client.rest()


def test_server_without_list_is_asked_for_the_name_all_the_same() -> None:
    unlisted = reply(Option.LIST, OptionReply.ERR_UNSUP)
    assert hear(OLD + unlisted + EXPORT_SIZE.pack(12345, FLAGS)).info.size == 12345


def test_server_that_is_not_fixed_is_only_told_the_name() -> None:
    client = hear(greeting(2) + EXPORT_SIZE.pack(12345, FLAGS))
    assert client.info == ExportInfo(12345, FLAGS)
    assert client.output.endswith(b"IHAVEOPT\0\0\0\1\0\0\0\4disk")


def test_server_of_the_old_style_gives_its_only_export() -> None:
    hello = GREETING_MAGIC.to_bytes(8, "big") + OLDSTYLE_MAGIC.to_bytes(8, "big")
    data = hello + OLDSTYLE_EXPORT.pack(4096, FLAGS) + bytes(124)
    client = hear(data, "")
    assert client.info == ExportInfo(4096, FLAGS)
    assert not client.rest()
    assert str(refusal(data)) == "Server does not support non-empty export names"
    assert str(refusal(data, "", tls=True)) == "Server does not support STARTTLS"


GO = Option.GO
REFUSALS = {
    b"SSH-2.0-OpenSSH-and-more": "Bad initial magic received: 0x5353482d322e302d",
    b"NBDMAGIC12345678": "Bad server magic received: 0x3132333435363738",
    greeting() + reply(GO, ACK): (
        "Unexpected option type 7 (go), expected 11 (extended headers)"
    ),
    greeting() + bytes(20): "Unexpected option reply magic",
    COMPACT + reply(8, OptionReply.SERVER): (
        "Server answered option 8 (structured reply) with unexpected reply 2 (server)"
    ),
    COMPACT + reply(8, ACK, b"!"): (
        "Option 8 ('structured reply') response length is 1 (it should be zero)"
    ),
    STRUCTURED + reply(10, OptionReply.META_CONTEXT, b"abcdother:one"): (
        "Failed to negotiate meta context 'base:allocation', server answered with different "
        "context 'other:one'"
    ),
    STRUCTURED + reply(10, OptionReply.META_CONTEXT, b"abcd"): (
        "Failed to negotiate meta context, server answered with unexpected length 4"
    ),
    STRUCTURED + 2 * CONTEXT: "Server answered with more than one context",
    STRUCTURED + reply(10, ACK, b"!"): "Unexpected length to ACK response",
    STRUCTURED + reply(10, OptionReply.INFO): (
        "Unexpected reply type 3 (info), expected 4 (meta context)"
    ),
    AGREED + reply(GO, OptionReply.ERR_UNKNOWN): "Requested export not available",
    AGREED + reply(GO, OptionReply.ERR_POLICY): "Denied by server for option 7 (go)",
    AGREED + reply(GO, OptionReply.ERR_INVALID): "Invalid parameters for option 7 (go)",
    AGREED + reply(GO, OptionReply.ERR_PLATFORM): "Server lacks support for option 7 (go)",
    AGREED + reply(GO, OptionReply.ERR_TLS_REQD): "TLS negotiation required before option 7 (go)",
    AGREED + reply(GO, OptionReply.ERR_SHUTDOWN): "Server shutting down before option 7 (go)",
    AGREED + reply(GO, OptionReply.ERR_BLOCK_SIZE_REQD): (
        "Server requires INFO_BLOCK_SIZE for option 7 (go)"
    ),
    AGREED + reply(GO, 1 << 31 | 99): "Unknown error code when asking for option 7 (go)",
    AGREED + reply(GO, ACK): "broken server omitted NBD_INFO_EXPORT",
    AGREED + export() + reply(GO, ACK, b"!"): "server sent invalid NBD_REP_ACK",
    AGREED + reply(GO, OptionReply.SERVER): (
        "unexpected reply type 2 (server), expected 3 (info)"
    ),
    AGREED + reply(GO, OptionReply.INFO, b"!"): "NBD_REP_INFO length 1 is too short",
    AGREED + reply(GO, OptionReply.INFO, bytes(3)): (
        "remaining export info len 1 is unexpected size"
    ),
    AGREED + blocks(3, 4096, 1 << 25): "server minimum block size 3 is not a power of two",
    AGREED + blocks(512, 256, 1 << 25): "server preferred block size 256 is not valid",
    AGREED + blocks(512, 4096, 256): "server maximum block size 256 is not valid",
    AGREED + blocks(512, 4096, 1 << 25) + export(513): (
        "export size 513 is not multiple of minimum block size 512"
    ),
    AGREED + export(513) + blocks(512, 4096, 1 << 25): (
        "export size 513 is not multiple of minimum block size 512"
    ),
    AGREED + OPTION_REPLY.pack(OPTION_REPLY_MAGIC, GO, 3, MAX_OPTION_REPLY + 1): (
        f"incorrect option length {MAX_OPTION_REPLY + 1}"
    ),
    AGREED + OPTION_REPLY.pack(OPTION_REPLY_MAGIC, GO, 1 << 31 | 6, MAX_OPTION_REPLY + 1): (
        "server error 2147483654 (export unknown) message is too long"
    ),
    OLD + reply(3, OptionReply.SERVER, pack_name("other")) + reply(3, ACK): (
        "No export with name 'disk' available"
    ),
    OLD + reply(3, OptionReply.SERVER, b"!"): "incorrect option length 1",
    OLD + reply(3, OptionReply.SERVER, U32.pack(9) + b"disk"): (
        "incorrect name length in server's list response"
    ),
    OLD + reply(3, OptionReply.SERVER, pack_name("disk") + bytes(5000)): (
        "incorrect description length in server's list response"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "text"), REFUSALS.items(), ids=REFUSALS.values())
def test_server_that_is_wrong_is_refused_in_the_words_of_qemu(data: bytes, text: str) -> None:
    assert str(refusal(data)) == text


def test_refusal_has_the_words_of_the_server_as_a_hint_and_says_abort() -> None:
    client = ClientHandshake("disk")
    client.receive(AGREED + reply(GO, OptionReply.ERR_TLS_REQD, b"no way"))
    with pytest.raises(HandshakeError) as caught:
        client.step()
    assert caught.value.hint == "Did you forget a valid tls-creds?\nserver reported: no way"
    assert client.output.endswith(b"IHAVEOPT\0\0\0\2\0\0\0\0")


def test_server_whose_replies_have_no_end_is_refused() -> None:
    endless = reply(GO, OptionReply.INFO, b"\0\1name")
    client = hear(AGREED + (MAX_OPTION_REPLIES - 1) * endless)
    client.receive(endless)
    with pytest.raises(HandshakeError, match="does not come to an end"):
        client.step()


def test_server_without_tls_is_not_used_where_tls_is_wanted() -> None:
    refused = greeting() + reply(Option.STARTTLS, OptionReply.ERR_UNSUP)
    assert str(refusal(refused, tls=True)) == "Server don't support STARTTLS option"
    assert str(refusal(greeting(2), tls=True)) == "Server does not support STARTTLS"
    denied = greeting() + reply(Option.STARTTLS, OptionReply.ERR_POLICY)
    assert str(refusal(denied, tls=True)) == "Denied by server for option 5 (starttls)"


def test_nothing_is_said_between_starttls_and_tls() -> None:
    client = ClientHandshake("disk", tls=True)
    client.receive(greeting() + reply(Option.STARTTLS, ACK))
    assert client.step() is ClientStep.START_TLS
    assert client.output == b"\0\0\0\3IHAVEOPT\0\0\0\5\0\0\0\0"
    assert client.step() is ClientStep.START_TLS
    client.output.clear()
    client.tls_started()
    assert client.step() is ClientStep.STARVED
    assert client.output == b"IHAVEOPT\0\0\0\13\0\0\0\0"


def test_what_was_sent_before_tls_is_not_believed_after_it() -> None:
    injected = greeting() + reply(Option.STARTTLS, ACK) + reply(Option.STRUCTURED_REPLY, ACK)
    said = str(refusal(injected, tls=True))
    assert said == "Server sent data between its answer to STARTTLS and TLS"


def test_handshake_tells_what_it_waits_for() -> None:
    waits = [(0, "initial magic"), (8, "server magic"), (16, "server flags"), (18, "option reply")]
    for size, what in waits:
        assert hear(greeting()[:size]).reading == what
