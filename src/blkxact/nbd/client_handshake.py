"""The client's side of the handshake: from the server's greeting to an export that can be used.

It asks for as much as the server has: TLS if that is wanted, extended headers or else structured
replies, one metadata context, GO with block sizes; and goes down to EXPORT_NAME, or to what a
server of the old style gives, where there is no more.

Invariants:

* The handshake is a generator that asks for a number of bytes and is handed them, so it reads like
  the specification; a number is checked against its limit before it is asked for.
* Nothing that came before TLS is believed after it.
* A server that breaks the protocol, or that refuses, is left with ABORT where it understands that.

Source: the NBD protocol specification, "Handshake". QEMU's counterpart: ``nbd/client.c``
(nbd_receive_negotiate), whose words the errors are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

from .option_reply import HandshakeError, Reply
from .protocol import (
    BASE_ALLOCATION,
    CLIENT_FLAGS,
    ERROR_BIT,
    EXPORT_NAME_PADDING,
    EXPORT_SIZE,
    GREETING_MAGIC,
    INFO_SIZES,
    OLDSTYLE_EXPORT,
    OLDSTYLE_MAGIC,
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
    option_name,
    pack_name,
    pack_text,
    reply_name,
    unpack_text,
)

MAX_OPTION_REPLY: Final = 64 << 10
"""Bytes of data that one reply to an option may have."""
MAX_OPTION_REPLIES: Final = 64 << 10
"""Replies to one option: exports of a list, pieces of information."""

T = TypeVar("T")
Steps = Generator[int, bytes, T]
"""Yields how many bytes it needs next and is sent them."""


class ClientStep(Enum):
    """What came of ``ClientHandshake.step``."""

    STARVED = auto()
    """More has to come from the server."""
    START_TLS = auto()
    """Encryption is to begin after the output; ``tls_started`` goes on."""
    TRANSMIT = auto()
    """``info`` describes the export; what comes next are replies to requests."""


@dataclass
class ExportInfo:
    """What the server said of the export. Block sizes are bytes; 0: not given."""

    size: int = 0
    flags: int = 0
    """``TransmissionFlag`` values; a server may have more than we know."""
    minimum_block: int = 0
    preferred_block: int = 0
    maximum_block: int = 0
    mode: Mode = Mode.SIMPLE
    """How requests and replies look."""
    context: int | None = None
    """The number of the metadata context, if the server has it."""


class ClientHandshake:
    """One handshake for one export. ``output`` is to be sent and emptied after every ``step``.

    ``tls``: encryption is a must. ``context``: the metadata context to ask for.
    """

    def __init__(self, export: str, *, tls: bool = False, context: str = BASE_ALLOCATION) -> None:
        self._export = export
        self._tls = tls
        self._context = context
        self._input = bytearray()
        self._steps = self._negotiate()
        self._wanted = next(self._steps)
        self._tls_pending = False
        self._options_work = False
        """The server has been found to answer options, so ABORT can be sent."""
        self.output = bytearray()
        self.info = ExportInfo()
        self.reading = "initial magic"
        """What comes next, for the error when nothing does."""

    def receive(self, data: bytes | memoryview) -> None:
        """Take what came from the server; ``step`` looks at it."""
        self._input += data

    def rest(self) -> bytes:
        """Return what came after the handshake."""
        data = bytes(self._input)
        self._input.clear()
        return data

    def tls_started(self) -> None:
        """Go on, encrypted."""
        self._tls_pending = False

    def step(self) -> ClientStep:
        """Look at what came. Raises ``HandshakeError`` when the server cannot be used."""
        try:
            while not self._tls_pending and len(self._input) >= self._wanted:
                data = bytes(self._input[: self._wanted])
                del self._input[: self._wanted]
                self._wanted = self._steps.send(data)
        except StopIteration:
            return ClientStep.TRANSMIT
        except HandshakeError:
            self._abort()
            raise
        return ClientStep.START_TLS if self._tls_pending else ClientStep.STARVED

    def _abort(self) -> None:
        if self._options_work:
            self._send(Option.ABORT)

    # The way through

    def _negotiate(self) -> Steps[None]:
        magic = int.from_bytes((yield 8), "big")
        if magic != GREETING_MAGIC:
            raise HandshakeError(f"Bad initial magic received: 0x{magic:x}")
        self.reading = "server magic"
        magic = int.from_bytes((yield 8), "big")
        if magic == OLDSTYLE_MAGIC:
            yield from self._oldstyle()
            return
        if magic != OPTION_MAGIC:
            raise HandshakeError(f"Bad server magic received: 0x{magic:x}")
        self.reading = "server flags"
        (bits,) = U16.unpack((yield U16.size))
        flags = HandshakeFlag(bits & (HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES))
        self.output += CLIENT_FLAGS.pack(flags)
        padding = not flags & HandshakeFlag.NO_ZEROES
        if flags & HandshakeFlag.FIXED_NEWSTYLE:
            self._options_work = True
            if (yield from self._ask_for_everything()):
                return
        elif self._tls:
            raise HandshakeError("Server does not support STARTTLS")
        yield from self._export_name(padding=padding)

    def _ask_for_everything(self) -> Steps[bool]:
        """Go through the options; return whether the export is open then."""
        if self._tls:
            yield from self._start_tls()
        if (yield from self._simple_option(Option.EXTENDED_HEADERS, strict=False)):
            self.info.mode = Mode.EXTENDED
        elif (yield from self._simple_option(Option.STRUCTURED_REPLY, strict=False)):
            self.info.mode = Mode.STRUCTURED
        if self.info.mode >= Mode.STRUCTURED:
            self.info.context = yield from self._set_context()
        if (yield from self._go()):
            return True
        if self.info.mode is Mode.EXTENDED:
            raise HandshakeError("Server has extended headers, but does not know NBD_OPT_GO")
        yield from self._look_for_export()
        return False

    def _start_tls(self) -> Steps[None]:
        if not (yield from self._simple_option(Option.STARTTLS, strict=True)):
            raise HandshakeError("Server don't support STARTTLS option")
        if self._input:
            raise HandshakeError("Server sent data between its answer to STARTTLS and TLS")
        self._tls_pending = True
        yield 0  # goes on when it is encrypted

    def _set_context(self) -> Steps[int | None]:
        """Ask for the metadata context; return its number, or None if the server has it not."""
        data = pack_name(self._export) + U32.pack(1) + pack_name(self._context)
        self._send(Option.SET_META_CONTEXT, data)
        found: int | None = None
        for _ in _counted():
            reply = yield from self._reply(Option.SET_META_CONTEXT, strict=False)
            if reply is None or reply.is_end("Unexpected length to ACK response"):
                return found
            reply.expect(OptionReply.META_CONTEXT)
            if found is not None:
                raise HandshakeError("Server answered with more than one context")
            if len(reply.data) <= U32.size:
                raise HandshakeError(
                    "Failed to negotiate meta context, server answered with unexpected length "
                    f"{len(reply.data)}"
                )
            name = unpack_text(reply.data[U32.size :])
            if name != self._context:
                raise HandshakeError(
                    f"Failed to negotiate meta context '{self._context}', server answered with "
                    f"different context '{name}'"
                )
            (found,) = U32.unpack_from(reply.data)
        return found

    def _go(self) -> Steps[bool]:
        """Open the export with GO; return whether the server knows that option."""
        blocks = U16.pack(1) + U16.pack(Info.BLOCK_SIZE)
        self._send(Option.GO, pack_name(self._export) + blocks)
        for _ in _counted():
            reply = yield from self._reply(Option.GO, strict=True)
            if reply is None:
                return False
            if reply.is_end("server sent invalid NBD_REP_ACK"):
                if not self.info.flags:
                    raise HandshakeError("broken server omitted NBD_INFO_EXPORT")
                return True
            if reply.kind != OptionReply.INFO:
                raise HandshakeError(
                    f"unexpected reply type {reply.kind} ({reply_name(reply.kind)}), expected "
                    f"{OptionReply.INFO:d} ({reply_name(OptionReply.INFO)})"
                )
            self._take_info(reply.data)
        return True

    def _take_info(self, data: bytes) -> None:
        if len(data) < U16.size:
            raise HandshakeError(f"NBD_REP_INFO length {len(data)} is too short")
        (kind,) = U16.unpack_from(data)
        rest = data[U16.size :]
        layout = {Info.EXPORT: EXPORT_SIZE, Info.BLOCK_SIZE: INFO_SIZES}.get(kind)
        if layout is None:
            return  # a name, a description, or what is not invented yet
        if len(rest) != layout.size:
            raise HandshakeError(f"remaining export info len {len(rest)} is unexpected size")
        if kind == Info.EXPORT:
            self.info.size, self.info.flags = EXPORT_SIZE.unpack(rest)
        else:
            self._take_block_sizes(*INFO_SIZES.unpack(rest))
        info = self.info
        if info.minimum_block and info.size % info.minimum_block:
            raise HandshakeError(
                f"export size {info.size} is not multiple of minimum block size "
                f"{info.minimum_block}"
            )

    def _take_block_sizes(self, minimum: int, preferred: int, maximum: int) -> None:
        if not _is_power_of_2(minimum):
            raise HandshakeError(f"server minimum block size {minimum} is not a power of two")
        if not _is_power_of_2(preferred) or preferred < minimum:
            raise HandshakeError(f"server preferred block size {preferred} is not valid")
        if maximum < minimum:
            raise HandshakeError(f"server maximum block size {maximum} is not valid")
        self.info.minimum_block = minimum
        self.info.preferred_block = preferred
        self.info.maximum_block = maximum

    def _look_for_export(self) -> Steps[None]:
        """Ask for the list of exports: EXPORT_NAME itself could not say that there is none."""
        self._send(Option.LIST)
        seen = False
        found = False
        for _ in _counted():
            reply = yield from self._reply(Option.LIST, strict=True)
            if reply is None or reply.is_end("length too long for option end"):
                break
            reply.expect(OptionReply.SERVER)
            seen = True
            found = found or reply.listed_name() == pack_text(self._export)
        if seen and not found:
            raise HandshakeError(f"No export with name '{self._export}' available")

    def _export_name(self, *, padding: bool) -> Steps[None]:
        self._send(Option.EXPORT_NAME, pack_text(self._export))
        self._options_work = False
        self.reading = "export length"
        self.info.size, self.info.flags = EXPORT_SIZE.unpack((yield EXPORT_SIZE.size))
        if padding:
            yield len(EXPORT_NAME_PADDING)

    def _oldstyle(self) -> Steps[None]:
        if self._tls:
            raise HandshakeError("Server does not support STARTTLS")
        if self._export:
            raise HandshakeError("Server does not support non-empty export names")
        self.reading = "export length"
        self.info.size, self.info.flags = OLDSTYLE_EXPORT.unpack((yield OLDSTYLE_EXPORT.size))
        if self.info.flags & ~0xFFFF:
            raise HandshakeError(f"Unexpected export flags {self.info.flags:x}")
        yield len(EXPORT_NAME_PADDING)

    # Options and replies

    def _send(self, option: Option, data: bytes = b"") -> None:
        self.output += OPTION.pack(OPTION_MAGIC, option, len(data)) + data

    def _simple_option(self, option: Option, *, strict: bool) -> Steps[bool]:
        """Ask for something that is granted or not; return which."""
        self._send(option)
        reply = yield from self._reply(option, strict=strict)
        if reply is None:
            return False
        if reply.kind != OptionReply.ACK:
            raise HandshakeError(
                f"Server answered option {option:d} ({option_name(option)}) with unexpected "
                f"reply {reply.kind:d} ({reply_name(reply.kind)})"
            )
        if reply.data:
            raise HandshakeError(
                f"Option {option:d} ('{option_name(option)}') response length is "
                f"{len(reply.data)} (it should be zero)"
            )
        return True

    def _reply(self, option: Option, *, strict: bool) -> Steps[Reply | None]:
        """Return the next reply to the option, or None where the server has it not.

        ``strict``: a refusal for any other reason is an error.
        """
        self.reading = "option reply"
        magic, to, kind, length = OPTION_REPLY.unpack((yield OPTION_REPLY.size))
        if magic != OPTION_REPLY_MAGIC:
            raise HandshakeError("Unexpected option reply magic")
        if to != option:
            raise HandshakeError(
                f"Unexpected option type {to} ({option_name(to)}), expected {option:d} "
                f"({option_name(option)})"
            )
        if length > MAX_OPTION_REPLY:
            is_error = bool(kind & ERROR_BIT)
            long_error = f"server error {kind} ({reply_name(kind)}) message is too long"
            raise HandshakeError(long_error if is_error else f"incorrect option length {length}")
        reply = Reply(option, kind, (yield length) if length else b"")
        if not kind & ERROR_BIT:
            return reply
        if kind == OptionReply.ERR_UNSUP or not strict:
            return None
        raise reply.refusal()


def _is_power_of_2(number: int) -> bool:
    return number > 0 and not number & (number - 1)


def _counted() -> Iterator[int]:
    """Count replies to one option up to their limit."""
    yield from range(MAX_OPTION_REPLIES)
    raise HandshakeError("Server does not come to an end with its replies to an option")
