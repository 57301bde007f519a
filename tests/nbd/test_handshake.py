"""The server's handshake, without sockets."""

from __future__ import annotations

import pytest

from blkxact.nbd.protocol import (
    EXPORT_SIZE,
    INFO_BLOCK_SIZE,
    MAX_STRING,
    OPTION,
    OPTION_MAGIC,
    Info,
    Mode,
    Option,
    OptionReply,
    ProtocolError,
    TransmissionFlag,
    pack_name,
)
from blkxact.nbd.server_handshake import MAX_OPTION, MAX_SKIPPED_OPTION, ServerHandshake, Step

from .talk import (
    FIXED,
    FIXED_NO_ZEROES,
    Talk,
    ToyCatalogue,
    ToyOffer,
    contexts,
    go,
    info_data,
    option,
    option_replies,
)

DISK = ToyOffer("disk", description="a disk", contexts={0: "base:allocation"})
MAPPED = ToyOffer(
    "mapped",
    contexts={
        0: "base:allocation",
        1: "qemu:allocation-depth",
        2: "qemu:dirty-bitmap:b0",
        3: "qemu:dirty-bitmap:b1",
    },
)
ACK = OptionReply.ACK


def test_greeting_is_fixed_newstyle() -> None:
    assert Talk().greeting == b"NBDMAGICIHAVEOPT\0\3"


def test_list_tells_names_and_descriptions() -> None:
    replies = Talk(DISK, ToyOffer("")).say(option(Option.LIST))
    assert replies == [
        (3, OptionReply.SERVER, pack_name("disk") + b"a disk"),
        (3, OptionReply.SERVER, pack_name("")),
        (3, ACK, b""),
    ]


def test_list_with_data_is_refused() -> None:
    reply = Talk().refusal(option(Option.LIST, b"x"))
    assert reply == (OptionReply.ERR_INVALID, "option 'list' has unexpected length")


def test_abort_is_acknowledged_and_ends_it() -> None:
    talk = Talk()
    assert talk.say(option(Option.ABORT)) == [(2, ACK, b"")]
    assert talk.last is Step.GOODBYE


def test_unknown_option_is_refused_and_the_client_goes_on() -> None:
    talk = Talk()
    reply = talk.refusal(option(77, b"data"))
    assert reply == (OptionReply.ERR_UNSUP, "Unsupported option 77 (<unknown>)")
    assert talk.say(option(Option.LIST)) == [(3, ACK, b"")]


@pytest.mark.parametrize(("flags", "zeroes"), [(FIXED, 124), (FIXED_NO_ZEROES, 0)])
def test_export_name_answers_with_size_and_flags(flags: bytes, zeroes: int) -> None:
    talk = Talk(DISK, flags=flags)
    talk.say(option(Option.EXPORT_NAME, b"disk"))
    assert talk.answers == EXPORT_SIZE.pack(1 << 20, 1) + bytes(zeroes)
    assert talk.last is Step.TRANSMIT
    assert talk.handshake.offer is DISK


def test_export_name_of_nothing_ends_the_connection() -> None:
    with pytest.raises(ProtocolError, match="export not found"):
        Talk(DISK).say(option(Option.EXPORT_NAME, b"nope"))


def test_go_tells_all_and_begins_transmission() -> None:
    talk = Talk(DISK)
    replies = talk.say(go("disk", Info.NAME, Info.BLOCK_SIZE))
    infos = {int.from_bytes(data[:2], "big"): data[2:] for _, reply, data in replies if reply == 3}
    assert infos[Info.NAME] == b"disk"
    assert infos[Info.DESCRIPTION] == b"a disk"
    assert infos[Info.EXPORT] == EXPORT_SIZE.pack(1 << 20, 1)
    assert infos[Info.BLOCK_SIZE] == INFO_BLOCK_SIZE.pack(3, 1, 4096, 32 << 20)[2:]
    assert replies[-1] == (7, ACK, b"")
    assert talk.last is Step.TRANSMIT


def test_info_tells_the_same_and_goes_on() -> None:
    talk = Talk(DISK)
    assert talk.say(option(Option.INFO, info_data("disk")))[-1] == (6, ACK, b"")
    assert talk.last is Step.STARVED
    assert talk.handshake.offer is None


def test_info_without_block_size_where_it_matters_is_refused() -> None:
    talk = Talk(ToyOffer("sectors", minimum_block=512))
    reply = talk.refusal(option(Option.INFO, info_data("sectors")))
    assert reply[0] is OptionReply.ERR_BLOCK_SIZE_REQD
    assert talk.say(option(Option.INFO, info_data("sectors", Info.BLOCK_SIZE)))[-1][1] == ACK


@pytest.mark.parametrize(("wanted", "least"), [((), 1), ((Info.BLOCK_SIZE,), 512)])
def test_go_tells_the_block_size_only_to_who_obeys_it(wanted: tuple[Info], least: int) -> None:
    replies = Talk(ToyOffer("sectors", minimum_block=512)).say(go("sectors", *wanted))
    sizes = next(data for _, reply, data in replies if reply == 3 and data[1] == Info.BLOCK_SIZE)
    assert INFO_BLOCK_SIZE.unpack(sizes)[1] == least


def test_go_to_nothing_is_refused_and_the_client_goes_on() -> None:
    talk = Talk(DISK)
    reply = talk.refusal(go("n" * 100))
    assert reply == (OptionReply.ERR_UNKNOWN, f"export '{'n' * 80}...' not present")
    assert talk.say(go("disk"))[-1] == (7, ACK, b"")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "Inconsistent lengths in option go"),
        (b"\0\0\0\5disk", "Inconsistent lengths in option go"),
        (b"\0\0\0\4disk\0\1\0", "Inconsistent lengths in option go"),
        (b"\0\0\0\4disk\0\0x", "option 'go' has unexpected length"),
        (b"\0\0\0\4di\0k\0\0", "Unexpected embedded NUL in option go"),
        (b"\0\0\x10\1" + bytes(5000), "Invalid name length: 4097"),
    ],
)
def test_go_with_spoilt_data_is_refused(data: bytes, text: str) -> None:
    assert Talk(DISK).refusal(option(Option.GO, data)) == (OptionReply.ERR_INVALID, text)


def test_structured_reply_is_agreed_once() -> None:
    talk = Talk(DISK)
    assert talk.say(option(Option.STRUCTURED_REPLY)) == [(8, ACK, b"")]
    assert talk.handshake.mode is Mode.STRUCTURED
    reply = talk.refusal(option(Option.STRUCTURED_REPLY))
    assert reply == (OptionReply.ERR_INVALID, "structured reply already negotiated")
    exports = [data for _, reply, data in talk.say(go("disk")) if data[:2] == b"\0\0"]
    assert EXPORT_SIZE.unpack(exports[0][2:])[1] & TransmissionFlag.SEND_DF


@pytest.mark.parametrize(
    ("queries", "names"),
    [
        ((), ["base:allocation", "qemu:allocation-depth", "b0", "b1"]),
        (("base:",), ["base:allocation"]),
        (("qemu:",), ["qemu:allocation-depth", "b0", "b1"]),
        (("qemu:dirty-bitmap:",), ["b0", "b1"]),
        (("qemu:dirty-bitmap:b1", "base:allocation"), ["base:allocation", "b1"]),
        (("base:x", "qemu:x", "other:", "", "qemu:dirty-bitmap:x"), []),
    ],
)
def test_contexts_are_listed_by_queries(queries: tuple[str, ...], names: list[str]) -> None:
    replies = Talk(MAPPED).say(option(Option.LIST_META_CONTEXT, contexts("mapped", *queries)))
    expected = [f"qemu:dirty-bitmap:{name}" if ":" not in name else name for name in names]
    assert [data[4:].decode() for *_, data in replies[:-1]] == expected
    assert all(data[:4] == bytes(4) for *_, data in replies[:-1])
    assert replies[-1] == (9, ACK, b"")


def structured(*offers: ToyOffer) -> Talk:
    talk = Talk(*offers)
    talk.say(option(Option.STRUCTURED_REPLY))
    return talk


def test_contexts_are_set_by_their_full_names() -> None:
    talk = structured(MAPPED)
    asked = contexts("mapped", "qemu:dirty-bitmap:b1", "base:", "qemu:allocation-depth", "qemu:")
    replies = talk.say(option(Option.SET_META_CONTEXT, asked))
    assert replies == [
        (10, 4, b"\0\0\0\1qemu:allocation-depth"),
        (10, 4, b"\0\0\0\3qemu:dirty-bitmap:b1"),
        (10, ACK, b""),
    ]
    talk.say(go("mapped"))
    assert talk.handshake.contexts == [1, 3]


def test_contexts_without_structured_replies_are_refused() -> None:
    reply = Talk(MAPPED).refusal(option(Option.SET_META_CONTEXT, contexts("mapped")))
    assert reply[0] is OptionReply.ERR_INVALID


def test_contexts_of_another_export_are_not_taken_over() -> None:
    talk = structured(MAPPED, DISK)
    talk.say(option(Option.SET_META_CONTEXT, contexts("mapped", "base:allocation")))
    talk.say(go("disk"))
    assert talk.handshake.contexts == []


def test_contexts_that_are_set_again_replace_the_first_even_if_refused() -> None:
    talk = structured(MAPPED)
    talk.say(option(Option.SET_META_CONTEXT, contexts("mapped", "base:allocation")))
    assert talk.refusal(option(Option.SET_META_CONTEXT, contexts("nope")))[0] == (
        OptionReply.ERR_UNKNOWN
    )
    talk.say(go("mapped"))
    assert talk.handshake.contexts == []


def test_query_that_is_too_long_is_passed_over() -> None:
    asked = contexts("mapped", "q" * (MAX_STRING + 1), "base:allocation")
    replies = Talk(MAPPED).say(option(Option.LIST_META_CONTEXT, asked))
    assert [data[4:] for *_, data in replies] == [b"base:allocation", b""]


def test_queries_fewer_than_announced_are_refused() -> None:
    data = pack_name("mapped") + (2**32 - 1).to_bytes(4, "big") + pack_name("base:")
    reply = Talk(MAPPED).refusal(option(Option.LIST_META_CONTEXT, data))
    assert reply == (OptionReply.ERR_INVALID, "Inconsistent lengths in option list meta context")


def test_option_that_is_too_big_is_passed_over_unseen() -> None:
    talk = Talk(DISK)
    talk.say(OPTION.pack(OPTION_MAGIC, Option.GO, MAX_OPTION + 1))
    for _ in range(MAX_OPTION):
        assert talk.say(b"x") == []
    assert len(talk.handshake._input) == 0
    replies = talk.say(b"x" + option(Option.LIST))
    assert [reply for _, reply, _ in replies] == [
        OptionReply.ERR_TOO_BIG,
        OptionReply.SERVER,
        ACK,
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "Bad magic received"),
        (OPTION.pack(OPTION_MAGIC, 3, MAX_SKIPPED_OPTION + 1), "larger than max len"),
        (OPTION.pack(OPTION_MAGIC, Option.EXPORT_NAME, MAX_STRING + 1), "Bad length"),
    ],
)
def test_client_that_speaks_otherwise_is_disconnected(words: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        Talk(DISK).say(words)


def test_unknown_client_flags_end_the_connection() -> None:
    with pytest.raises(ProtocolError, match="Unknown client flags 0x4 received"):
        Talk(flags=b"\0\0\0\7")


def test_old_newstyle_client_may_only_name_its_export() -> None:
    talk = Talk(DISK, flags=bytes(4))
    with pytest.raises(ProtocolError, match="Unsupported option 3"):
        talk.say(option(Option.LIST))
    talk = Talk(DISK, flags=bytes(4))
    talk.say(option(Option.EXPORT_NAME, b"disk"))
    assert talk.last is Step.TRANSMIT


# TLS


def test_tls_that_is_not_configured_is_refused() -> None:
    reply = Talk().refusal(option(Option.STARTTLS))
    assert reply == (OptionReply.ERR_POLICY, "TLS not configured")


@pytest.mark.parametrize("number", [Option.LIST, Option.INFO, Option.GO, 77])
def test_tls_is_required_before_anything_else(number: int) -> None:
    talk = Talk(DISK, tls=True)
    reply = talk.refusal(option(number, b"data"))
    assert reply == (OptionReply.ERR_TLS_REQD, f"Option 0x{number:x} not permitted before TLS")
    assert talk.last is Step.STARVED


def test_tls_is_required_before_export_name_which_ends_the_connection() -> None:
    with pytest.raises(ProtocolError, match="Option 0x1 not permitted before TLS"):
        Talk(DISK, tls=True).say(option(Option.EXPORT_NAME, b"disk"))


def test_tls_begins_once() -> None:
    talk = Talk(DISK, tls=True)
    assert talk.say(option(Option.STARTTLS)) == [(5, ACK, b"")]
    assert talk.last is Step.START_TLS
    talk.handshake.tls_started()
    assert talk.refusal(option(Option.STARTTLS))[1] == "TLS already enabled"
    assert talk.say(go("disk"))[-1] == (7, ACK, b"")


def test_words_injected_before_tls_end_the_connection() -> None:
    with pytest.raises(ProtocolError, match="between 'starttls' and its answer"):
        Talk(DISK, tls=True).say(option(Option.STARTTLS) + option(Option.LIST))


# Cuts and noise

TRANSCRIPT = b"".join(
    [
        FIXED_NO_ZEROES,
        option(Option.STRUCTURED_REPLY),
        option(Option.LIST),
        option(99, b"what?"),
        option(Option.LIST_META_CONTEXT, contexts("mapped", "qemu:")),
        option(Option.SET_META_CONTEXT, contexts("mapped", "base:allocation")),
        option(Option.INFO, info_data("disk", Info.NAME)),
        go("nope"),
        go("mapped", Info.BLOCK_SIZE),
    ]
)


def run(pieces: list[bytes]) -> tuple[bytes, list[int], bytes]:
    handshake = ServerHandshake(ToyCatalogue(DISK, MAPPED))
    answers = bytearray()
    for piece in pieces:
        handshake.receive(piece)
        while handshake.step() is Step.ANSWERED:
            answers += handshake.output
            handshake.output.clear()
        answers += handshake.output
        handshake.output.clear()
    return bytes(answers), handshake.contexts, handshake.rest()


def test_handshake_cut_at_every_byte_gives_the_same_answers() -> None:
    whole = run([TRANSCRIPT + b"first request"])
    assert whole[2] == b"first request"
    assert len(option_replies(whole[0][18:])) == 20
    for cut in range(len(TRANSCRIPT)):
        assert run([TRANSCRIPT[:cut], TRANSCRIPT[cut:] + b"first request"]) == whole
    assert run([bytes([byte]) for byte in TRANSCRIPT])[:2] == whole[:2]


def test_handshake_with_noise_refuses_or_disconnects_and_keeps_little(seeded) -> None:
    for _ in range(2000):
        words = bytearray(TRANSCRIPT)
        for _ in range(seeded.randrange(1, 6)):
            at = seeded.randrange(len(words))
            match seeded.randrange(3):
                case 0:
                    words[at] = seeded.randrange(256)
                case 1:
                    del words[at : at + seeded.randrange(1, 8)]
                case 2:
                    words[at:at] = seeded.randbytes(seeded.randrange(1, 8))
        try:
            answers, *_ = run([bytes(words)])
        except ProtocolError:
            continue
        option_replies(answers[18:])
