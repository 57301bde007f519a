"""The server's side of the handshake: options of a client, until it has chosen an export.

Invariants:

* One call of ``step`` answers one option, so the caller can stop a client that does not read.
* Not more than one option of ``MAX_OPTION`` bytes is kept; the data of a longer one is passed over
  unseen and answered with ERR_TOO_BIG.
* What a client sent before TLS is not looked at after it: it is an error (an injected command).
* Metadata contexts belong to the export that they were set for; another export begins with none.

Source: the NBD protocol specification, "Handshake" and "Fixed newstyle negotiation".
QEMU's counterpart: ``nbd/server.c`` (nbd_negotiate), whose words the errors are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from . import meta_context
from .catalogue import Catalogue, Offer
from .option_data import OptionData, OptionDataError
from .protocol import (
    CLIENT_FLAGS,
    EXPORT_NAME_PADDING,
    EXPORT_SIZE,
    GREETING,
    GREETING_MAGIC,
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    MAX_PAYLOAD,
    MAX_STRING,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    U16,
    U32,
    HandshakeFlag,
    Info,
    Mode,
    Option,
    OptionReply,
    ProtocolError,
    TransmissionFlag,
    option_name,
    pack_name,
    pack_text,
    unpack_text,
)

MAX_OPTION: Final = 64 << 10
"""Bytes of an option's data that are kept; a name and some hundred queries fit in."""
MAX_SKIPPED_OPTION: Final = 32 << 20
"""Bytes of data that are passed over; more than that costs the connection, as in QEMU."""
PREFERRED_BLOCK: Final = 4096
SHOWN_NAME: Final = 80
"""Characters of a client's name that an error repeats."""

_FLAGS: Final = int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)


class Step(Enum):
    """What came of ``ServerHandshake.step``."""

    STARVED = auto()
    """The next option is not complete."""
    ANSWERED = auto()
    START_TLS = auto()
    """Encryption is to begin after the output; ``tls_started`` goes on."""
    TRANSMIT = auto()
    """The client has chosen ``offer``; what comes next are requests."""
    GOODBYE = auto()
    """The client wants to leave."""


class _Refused(Exception):  # noqa: N818 - it is an answer, not an internal error
    """An option cannot be done; the client gets an error and may go on."""

    def __init__(self, reply: OptionReply, text: str) -> None:
        super().__init__(text)
        self.reply = reply
        self.text = text


class ServerHandshake:
    """One client's handshake. ``output`` is to be sent and emptied after every ``step``.

    ``tls``: every client must start TLS before anything else. ``extended``: extended headers are
    offered.
    """

    def __init__(self, catalogue: Catalogue, *, tls: bool = False, extended: bool = False) -> None:
        self._catalogue = catalogue
        self._tls = tls
        self._encrypted = False
        self._client_flags: HandshakeFlag | None = None
        self._input = bytearray()
        self._skip = 0
        self._too_big: int | None = None
        """The option whose data is being passed over."""
        self.output = bytearray(GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, _FLAGS))
        self.mode = Mode.SIMPLE
        """What the client understands."""
        self.offer: Offer | None = None
        """The export that was chosen."""
        self.contexts: list[int] = []
        """The metadata contexts of the chosen export that were selected."""
        self._contexts_of: Offer | None = None
        self._options: dict[int, Callable[[bytes], Step]] = {
            Option.ABORT: self._abort,
            Option.LIST: self._list,
            Option.STARTTLS: self._late_tls,
            Option.INFO: self._info,
            Option.GO: self._go,
            Option.STRUCTURED_REPLY: self._structured_reply,
            Option.LIST_META_CONTEXT: self._list_contexts,
            Option.SET_META_CONTEXT: self._set_contexts,
        }
        if extended:
            self._options[Option.EXTENDED_HEADERS] = self._extended_headers
        self._option = 0

    def receive(self, data: bytes | memoryview) -> None:
        """Take what came from the client; ``step`` looks at it."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        self._input += data

    def rest(self) -> bytes:
        """Return what came after the last option: the first requests."""
        data = bytes(self._input)
        self._input.clear()
        return data

    def tls_started(self) -> None:
        """Continue encrypted. The client starts again: all that was agreed before is void."""
        self._encrypted = True

    def step(self) -> Step:
        """Answer the next option. Raises ``ProtocolError`` when the connection cannot go on."""
        if self._client_flags is None:
            return self._take_flags()
        if self._too_big is not None:
            return self._finish_too_big()
        if len(self._input) < OPTION.size:
            return Step.STARVED
        magic, option, length = OPTION.unpack_from(self._input)
        if magic != OPTION_MAGIC:
            raise ProtocolError("Bad magic received")
        if length > MAX_SKIPPED_OPTION:
            raise ProtocolError(f"len ({length} ) is larger than max len ({MAX_PAYLOAD})")
        end = OPTION.size + length
        self._option = option
        if length > MAX_OPTION and option != Option.EXPORT_NAME:
            passed = min(end, len(self._input))
            del self._input[:passed]
            self._skip = end - passed
            self._too_big = option
            return self._finish_too_big()
        if option == Option.EXPORT_NAME and length > MAX_STRING:
            raise ProtocolError("Bad length received")
        if len(self._input) < end:
            return Step.STARVED
        data = bytes(self._input[OPTION.size : end])
        del self._input[:end]
        return self._answer(option, data)

    def _take_flags(self) -> Step:
        if len(self._input) < CLIENT_FLAGS.size:
            return Step.STARVED
        (flags,) = CLIENT_FLAGS.unpack_from(self._input)
        if flags & ~_FLAGS:
            raise ProtocolError(f"Unknown client flags 0x{flags & ~_FLAGS:x} received")
        del self._input[: CLIENT_FLAGS.size]
        self._client_flags = HandshakeFlag(flags)
        return Step.ANSWERED

    def _finish_too_big(self) -> Step:
        if self._skip:
            return Step.STARVED
        self._too_big = None
        self._reply(OptionReply.ERR_TOO_BIG, b"option is too long")
        return Step.ANSWERED

    def _answer(self, option: int, data: bytes) -> Step:
        assert self._client_flags is not None
        fixed = self._client_flags & HandshakeFlag.FIXED_NEWSTYLE
        if self._tls and not self._encrypted:
            return self._answer_before_tls(option, data, fixed=bool(fixed))
        if option == Option.EXPORT_NAME:
            return self._export_name(data)
        if not fixed:
            raise ProtocolError(f"Unsupported option {option} ({option_name(option)})")
        handler = self._options.get(option, self._unsupported)
        try:
            return handler(data)
        except OptionDataError as error:
            self._reply(OptionReply.ERR_INVALID, pack_text(str(error)))
        except _Refused as refused:
            self._reply(refused.reply, pack_text(refused.text))
        return Step.ANSWERED

    def _answer_before_tls(self, option: int, data: bytes, *, fixed: bool) -> Step:
        if not fixed:
            raise ProtocolError(f"Unsupported option 0x{option:x}")
        if option == Option.EXPORT_NAME:
            raise ProtocolError(f"Option 0x{option:x} not permitted before TLS")
        if option == Option.STARTTLS:
            if data:
                raise ProtocolError("option 'starttls' has unexpected length")
            if self._input:
                raise ProtocolError("data was sent between 'starttls' and its answer")
            self._reply(OptionReply.ACK)
            return Step.START_TLS
        text = f"Option 0x{option:x} not permitted before TLS"
        self._reply(OptionReply.ERR_TLS_REQD, os.fsencode(text))
        return Step.GOODBYE if option == Option.ABORT else Step.ANSWERED

    def _reply(self, reply: OptionReply, data: bytes = b"") -> None:
        self.output += OPTION_REPLY.pack(OPTION_REPLY_MAGIC, self._option, reply, len(data))
        self.output += data

    # Options

    def _unsupported(self, data: bytes) -> Step:
        del data
        # Options that a release does not have yet have no name in it, either.
        raise _Refused(OptionReply.ERR_UNSUP, f"Unsupported option {self._option} (<unknown>)")

    def _abort(self, data: bytes) -> Step:
        del data
        self._reply(OptionReply.ACK)
        return Step.GOODBYE

    def _list(self, data: bytes) -> Step:
        self._expect_nothing(data)
        for offer in self._catalogue.offers():
            text = pack_name(offer.name) + pack_text(offer.description or "")
            self._reply(OptionReply.SERVER, text)
        self._reply(OptionReply.ACK)
        return Step.ANSWERED

    def _late_tls(self, data: bytes) -> Step:
        self._expect_nothing(data)
        if self._tls:
            raise _Refused(OptionReply.ERR_INVALID, "TLS already enabled")
        raise _Refused(OptionReply.ERR_POLICY, "TLS not configured")

    def _structured_reply(self, data: bytes) -> Step:
        self._expect_nothing(data)
        if self.mode is Mode.EXTENDED:
            text = "extended headers already negotiated"
            raise _Refused(OptionReply.ERR_EXT_HEADER_REQD, text)
        if self.mode is Mode.STRUCTURED:
            raise _Refused(OptionReply.ERR_INVALID, "structured reply already negotiated")
        self.mode = Mode.STRUCTURED
        self._reply(OptionReply.ACK)
        return Step.ANSWERED

    def _extended_headers(self, data: bytes) -> Step:
        self._expect_nothing(data)
        if self.mode is Mode.EXTENDED:
            raise _Refused(OptionReply.ERR_INVALID, "extended headers already negotiated")
        self.mode = Mode.EXTENDED
        self._reply(OptionReply.ACK)
        return Step.ANSWERED

    def _export_name(self, data: bytes) -> Step:
        if self.mode is Mode.EXTENDED:
            raise ProtocolError("Extended headers already negotiated")
        name = unpack_text(data.partition(b"\0")[0])
        offer = self._catalogue.find_offer(name)
        if offer is None:
            raise ProtocolError("export not found")
        self.output += EXPORT_SIZE.pack(offer.size, self._flags_of(offer, mapped=False))
        assert self._client_flags is not None
        if not self._client_flags & HandshakeFlag.NO_ZEROES:
            self.output += EXPORT_NAME_PADDING
        return self._choose(offer)

    def _go(self, data: bytes) -> Step:
        return self._choose(self._describe(data, strict=False))

    def _info(self, data: bytes) -> Step:
        self._describe(data, strict=True)
        return Step.ANSWERED

    def _describe(self, data: bytes, *, strict: bool) -> Offer:
        """Send what INFO and GO send of an export.

        ``strict``: a client that did not ask for the block size is refused where it matters; the
        one that goes on to use the export gets the reply that any size will do, and it does.
        """
        reader = OptionData(data, self._option)
        name = reader.name()
        wanted = set(reader.u16_list())
        reader.end()
        offer = self._find(name)
        sized = Info.BLOCK_SIZE in wanted
        if Info.NAME in wanted:
            self._reply(OptionReply.INFO, U16.pack(Info.NAME) + pack_text(name))
        if offer.description is not None:
            description = U16.pack(Info.DESCRIPTION) + pack_text(offer.description)
            self._reply(OptionReply.INFO, description)
        least = offer.minimum_block if strict or sized else 1
        preferred = max(PREFERRED_BLOCK, least)
        sizes = INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, least, preferred, MAX_PAYLOAD)
        self._reply(OptionReply.INFO, sizes)
        flags = self._flags_of(offer, mapped=strict or bool(self._contexts_for(offer)))
        self._reply(OptionReply.INFO, INFO_EXPORT.pack(Info.EXPORT, offer.size, flags))
        if strict and not sized and least > 1:
            text = "request NBD_INFO_BLOCK_SIZE to use this export"
            raise _Refused(OptionReply.ERR_BLOCK_SIZE_REQD, text)
        self._reply(OptionReply.ACK)
        return offer

    def _list_contexts(self, data: bytes) -> Step:
        reader = OptionData(data, self._option)
        offer = self._find(reader.name())
        queries = reader.queries()
        for number in meta_context.listed(offer.contexts, queries):
            self._reply(OptionReply.META_CONTEXT, U32.pack(0) + pack_text(offer.contexts[number]))
        self._reply(OptionReply.ACK)
        return Step.ANSWERED

    def _set_contexts(self, data: bytes) -> Step:
        if self.mode < Mode.STRUCTURED:
            text = "request option 'set meta context' when structured reply is not negotiated"
            raise _Refused(OptionReply.ERR_INVALID, text)
        self.contexts, self._contexts_of = [], None
        reader = OptionData(data, self._option)
        offer = self._find(reader.name())
        chosen = meta_context.selected(offer.contexts, reader.queries())
        for number in chosen:
            context = U32.pack(number) + pack_text(offer.contexts[number])
            self._reply(OptionReply.META_CONTEXT, context)
        self._reply(OptionReply.ACK)
        self.contexts, self._contexts_of = chosen, offer
        return Step.ANSWERED

    # Parts

    def _find(self, name: str) -> Offer:
        offer = self._catalogue.find_offer(name)
        if offer is None:
            shown = name if len(name) < SHOWN_NAME else f"{name[:SHOWN_NAME]}..."
            raise _Refused(OptionReply.ERR_UNKNOWN, f"export '{shown}' not present")
        return offer

    def _flags_of(self, offer: Offer, *, mapped: bool) -> int:
        """Return the flags of an export; ``mapped``: the client has, or may get, contexts of it."""
        flags = int(offer.flags)
        if self.mode >= Mode.STRUCTURED:
            flags |= TransmissionFlag.SEND_DF
        if self.mode >= Mode.EXTENDED and mapped:
            flags |= TransmissionFlag.BLOCK_STAT_PAYLOAD
        return flags

    def _contexts_for(self, offer: Offer) -> list[int]:
        return self.contexts if self._contexts_of is offer else []

    def _choose(self, offer: Offer) -> Step:
        self.offer = offer
        self.contexts = self._contexts_for(offer)
        return Step.TRANSMIT

    def _expect_nothing(self, data: bytes) -> None:
        if data:
            name = option_name(self._option)
            raise _Refused(OptionReply.ERR_INVALID, f"option '{name}' has unexpected length")
