"""The numbers and layouts of NBD, for both sides.

All integers are big-endian and unsigned. Names are those of the specification without ``NBD_``.

Source: the NBD protocol specification, sections "Values" and "Protocol phases";
QEMU's counterpart: ``include/block/nbd.h``.
"""

from __future__ import annotations

import errno
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

from blkxact.errors import os_error

GREETING_MAGIC: Final = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC: Final = 0x49484156454F5054  # "IHAVEOPT"
OLDSTYLE_MAGIC: Final = 0x00420281861253
"""Stands in OPTION_MAGIC's place where the server knows no options."""
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
EXTENDED_REQUEST_MAGIC: Final = 0x21E41C71
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF
EXTENDED_REPLY_MAGIC: Final = 0x6E8A278C

DEFAULT_PORT: Final = 10809
MAX_STRING: Final = 4096
"""Bytes of a name, a description or a query."""
MAX_PAYLOAD: Final = 32 << 20
"""Bytes that one request may read or write, as in QEMU (the specification's default)."""

GREETING: Final = Struct(">QQH")
"""GREETING_MAGIC, OPTION_MAGIC, HandshakeFlag."""
CLIENT_FLAGS: Final = Struct(">I")
"""HandshakeFlag, as the client answers."""
OPTION: Final = Struct(">QII")
"""OPTION_MAGIC, Option, bytes of data."""
OPTION_REPLY: Final = Struct(">QIII")
"""OPTION_REPLY_MAGIC, Option, OptionReply, bytes of data."""
EXPORT_SIZE: Final = Struct(">QH")
"""Bytes of the export, TransmissionFlag: the answer to EXPORT_NAME and the end of INFO_EXPORT."""
OLDSTYLE_EXPORT: Final = Struct(">QI")
"""Bytes of the export, TransmissionFlag: what follows OLDSTYLE_MAGIC."""
EXPORT_NAME_PADDING: Final = bytes(124)
"""Zeroes after EXPORT_SIZE, unless both sides said NO_ZEROES."""
INFO_EXPORT: Final = Struct(">HQH")
"""Info.EXPORT, bytes of the export, TransmissionFlag."""
INFO_BLOCK_SIZE: Final = Struct(">HIII")
"""Info.BLOCK_SIZE; minimum, preferred and maximum bytes."""
INFO_SIZES: Final = Struct(">III")
"""The end of INFO_BLOCK_SIZE."""
U16: Final = Struct(">H")
U32: Final = Struct(">I")

REQUEST: Final = Struct(">IHHQQI")
"""REQUEST_MAGIC, CommandFlag, Command, cookie, offset, bytes."""
EXTENDED_REQUEST: Final = Struct(">IHHQQQ")
"""EXTENDED_REQUEST_MAGIC and the same; the bytes are those of the payload with PAYLOAD_LEN."""
SIMPLE_REPLY: Final = Struct(">IIQ")
"""SIMPLE_REPLY_MAGIC, error, cookie."""
CHUNK: Final = Struct(">IHHQI")
"""STRUCTURED_REPLY_MAGIC, ChunkFlag, Chunk, cookie, bytes of data."""
EXTENDED_CHUNK: Final = Struct(">IHHQQQ")
"""EXTENDED_REPLY_MAGIC, ChunkFlag, Chunk, cookie, the request's offset, bytes of data."""
CHUNK_OFFSET: Final = Struct(">Q")
"""What stands before the data of OFFSET_DATA."""
CHUNK_HOLE: Final = Struct(">QI")
"""Offset and bytes of OFFSET_HOLE."""
CHUNK_ERROR: Final = Struct(">IH")
"""Error and bytes of its message."""
DATA_HEADER: Final = Struct(">IHHQIQ")
"""CHUNK and CHUNK_OFFSET in one."""
EXTENT: Final = Struct(">II")
"""Bytes and status of an extent in BLOCK_STATUS, after the context's number."""
EXTENTS_HEADER: Final = Struct(">II")
"""The number of a context and of its extents in BLOCK_STATUS_EXT."""
EXTENDED_EXTENT: Final = Struct(">QQ")
"""Bytes and status of an extent in BLOCK_STATUS_EXT."""
STATUS_PAYLOAD: Final = Struct(">Q")
"""The range that a BLOCK_STATUS with a payload is about, in bytes; numbers of contexts follow."""


class Mode(IntEnum):
    """How requests and replies look, as the handshake has agreed: NBDMode.

    Each mode has what the one before has.
    """

    SIMPLE = 0
    STRUCTURED = 1
    """Replies to reads, and errors, come in chunks; there may be metadata contexts."""
    EXTENDED = 2
    """Headers have 32 bytes with lengths of 64 bits; all replies come in chunks."""


class HandshakeFlag(IntFlag):
    """FLAG_* of the server and FLAG_C_* of the client, which have the same values."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """OPT_*: what the client asks for in the handshake."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


ERROR_BIT: Final = 1 << 31


class OptionReply(IntEnum):
    """REP_*: what the server answers to an option."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = ERROR_BIT | 1
    ERR_POLICY = ERROR_BIT | 2
    ERR_INVALID = ERROR_BIT | 3
    ERR_PLATFORM = ERROR_BIT | 4
    ERR_TLS_REQD = ERROR_BIT | 5
    ERR_UNKNOWN = ERROR_BIT | 6
    ERR_SHUTDOWN = ERROR_BIT | 7
    ERR_BLOCK_SIZE_REQD = ERROR_BIT | 8
    ERR_TOO_BIG = ERROR_BIT | 9
    ERR_EXT_HEADER_REQD = ERROR_BIT | 10


class Info(IntEnum):
    """INFO_*: what REP_INFO says of an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(IntFlag):
    """FLAG_*: what can be done with an export."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STAT_PAYLOAD = 1 << 12


class Command(IntEnum):
    """CMD_*: requests."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """CMD_FLAG_*."""

    FUA = 1
    NO_HOLE = 2
    DF = 4
    REQ_ONE = 8
    FAST_ZERO = 16
    PAYLOAD_LEN = 32


class ChunkFlag(IntFlag):
    """REPLY_FLAG_*."""

    DONE = 1


CHUNK_ERROR_BIT: Final = 1 << 15


class Chunk(IntEnum):
    """REPLY_TYPE_*: pieces of a structured reply."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    BLOCK_STATUS_EXT = 6
    ERROR = CHUNK_ERROR_BIT | 1
    ERROR_OFFSET = CHUNK_ERROR_BIT | 2


class State(IntFlag):
    """STATE_*: flags of an extent in ``base:allocation``."""

    HOLE = 1
    ZERO = 2


STATE_DIRTY: Final = 1
"""Flag of an extent in ``qemu:dirty-bitmap:NAME``."""

BASE_ALLOCATION: Final = "base:allocation"
ALLOCATION_DEPTH: Final = "qemu:allocation-depth"
DIRTY_BITMAP: Final = "qemu:dirty-bitmap:"


class ProtocolError(Exception):
    """The other side does not speak the protocol; the connection cannot go on."""


def pack_request(
    mode: Mode, command: Command, cookie: int, offset: int = 0, length: int = 0, *, flags: int = 0
) -> bytes:
    """Return the header of a request; with ``Mode.EXTENDED`` one that says that data follows."""
    if mode < Mode.EXTENDED:
        return REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)
    if command is Command.WRITE:
        flags |= CommandFlag.PAYLOAD_LEN
    return EXTENDED_REQUEST.pack(EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length)


_ON_THE_WIRE: Final = {
    errno.EPERM: 1,
    errno.EROFS: 1,
    errno.EIO: 5,
    errno.ENOMEM: 12,
    errno.EINVAL: 22,
    errno.ENOSPC: 28,
    errno.EFBIG: 28,
    errno.EDQUOT: 28,
    errno.EOVERFLOW: 75,
    errno.ENOTSUP: 95,
    errno.ESHUTDOWN: 108,
}
_HERE: Final = {
    1: errno.EPERM,
    5: errno.EIO,
    12: errno.ENOMEM,
    22: errno.EINVAL,
    28: errno.ENOSPC,
    75: errno.EOVERFLOW,
    95: errno.ENOTSUP,
    108: errno.ESHUTDOWN,
}


def error_to_wire(code: int) -> int:
    """Return the protocol's number for an errno; what it does not know is EINVAL, as in QEMU."""
    return _ON_THE_WIRE.get(code, 22)


def error_from_wire(number: int) -> OSError:
    """Return the errno of a server's error; what the protocol does not know is EINVAL."""
    code = _HERE.get(number, errno.EINVAL)
    return os_error(code)


def option_name(option: int) -> str:
    """Return what messages call an option, as QEMU does."""
    names = {
        Option.EXPORT_NAME: "export name",
        Option.ABORT: "abort",
        Option.LIST: "list",
        Option.STARTTLS: "starttls",
        Option.INFO: "info",
        Option.GO: "go",
        Option.STRUCTURED_REPLY: "structured reply",
        Option.LIST_META_CONTEXT: "list meta context",
        Option.SET_META_CONTEXT: "set meta context",
        Option.EXTENDED_HEADERS: "extended headers",
    }
    return names.get(option, "<unknown>")  # type: ignore[call-overload, no-any-return]


def reply_name(reply: int) -> str:
    """Return what messages call a reply to an option, as QEMU does."""
    names = {
        OptionReply.ACK: "ack",
        OptionReply.SERVER: "server",
        OptionReply.INFO: "info",
        OptionReply.META_CONTEXT: "meta context",
        OptionReply.ERR_UNSUP: "unsupported",
        OptionReply.ERR_POLICY: "denied by policy",
        OptionReply.ERR_INVALID: "invalid",
        OptionReply.ERR_PLATFORM: "platform lacks support",
        OptionReply.ERR_TLS_REQD: "TLS required",
        OptionReply.ERR_UNKNOWN: "export unknown",
        OptionReply.ERR_SHUTDOWN: "server shutting down",
        OptionReply.ERR_BLOCK_SIZE_REQD: "block size required",
        OptionReply.ERR_TOO_BIG: "option payload too big",
        OptionReply.ERR_EXT_HEADER_REQD: "extended headers required",
    }
    return names.get(reply, "<unknown>")  # type: ignore[call-overload, no-any-return]


COMMAND_NAMES: Final = {
    Command.READ: "read",
    Command.WRITE: "write",
    Command.DISC: "disconnect",
    Command.FLUSH: "flush",
    Command.TRIM: "trim",
    Command.CACHE: "cache",
    Command.WRITE_ZEROES: "write zeroes",
    Command.BLOCK_STATUS: "block status",
}
"""What messages call a command, as QEMU does."""


def pack_text(text: str) -> bytes:
    """Return a name as it goes over the wire."""
    return text.encode("utf-8", "surrogateescape")


def unpack_text(data: bytes) -> str:
    """Return a name that came over the wire; bytes that are no UTF-8 survive."""
    return data.decode("utf-8", "surrogateescape")


def pack_name(text: str) -> bytes:
    """Return a name with its length before it."""
    data = pack_text(text)
    return U32.pack(len(data)) + data
