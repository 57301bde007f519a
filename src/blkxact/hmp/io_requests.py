"""qemu-io's requests that are waited for: read, readv, write, writev, discard.

QEMU's counterpart: read_f, readv_f, write_f, writev_f, discard_f in ``qemu-io-cmds.c``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from blkxact.block.types import SECTOR, WriteFlags
from blkxact.errors import strerror
from blkxact.storage.api import Buffer

from .io_text import (
    REQUEST_MAX,
    Done,
    IoMistake,
    IoRefusal,
    IoUsage,
    Options,
    dump,
    mismatch,
    parse_number,
    report,
)

if TYPE_CHECKING:
    from .io_session import IoSession

WRITE_PATTERN = 0xCD
T = TypeVar("T")


async def read(session: IoSession, words: list[str]) -> None:
    """``read``: one range; ``-s`` and ``-l`` bound what ``-P`` compares."""
    options = Options(session.command, words, "bCl:pP:qs:v")
    pattern = options.pattern(0)
    first, count = options.number("s"), options.number("l")
    if len(options.operands) != 2:
        raise IoUsage
    offset, length = parse_number(options.operands[0]), _length(options.operands[1])
    if "P" not in options.values and {"s", "l"} & options.values.keys():
        raise IoUsage
    if "l" not in options.values:
        count = length - first
    if count < 0 or first + count > length:
        raise IoRefusal("pattern verification range exceeds end of read data\n")
    if "b" in options.flags:
        check_sectors(offset, length)
        raise _unsupported("read")
    data, seconds = await _timed(session, "read", session.backend.pread(offset, length))
    if "P" in options.values:
        compared = memoryview(data)[first : first + count]
        session.print(mismatch(compared, offset + first, pattern))
    session.print(read_text(options, data, offset, seconds))


async def readv(session: IoSession, words: list[str]) -> None:
    """``readv``: a range given as several lengths."""
    options = Options(session.command, words, "CP:qv")
    pattern = options.pattern(0)
    offset, length = vector(options)
    data, seconds = await _timed(session, "readv", session.backend.pread(offset, length))
    if "P" in options.values:
        session.print(mismatch(data, offset, pattern))
    session.print(read_text(options, data, offset, seconds))


async def write(session: IoSession, words: list[str]) -> None:
    """``write``: one range, from a pattern, a file (``-s``), or zeroes (``-z``)."""
    options = Options(session.command, words, "bcCfnpP:qs:uz")
    pattern = options.pattern(WRITE_PATTERN)
    if len(options.operands) != 2:
        raise IoUsage
    _check_write(options)
    offset = parse_number(options.operands[0])
    unbounded = "n" in options.flags
    length = _length(options.operands[1], unbounded=unbounded, hint=" without -n")
    if {"b", "c"} & options.flags:
        check_sectors(offset, length)
    flags = write_flags(options)
    if "z" in options.flags:
        request = session.backend.pwrite_zeroes(offset, length, flags)
    elif "b" in options.flags or ("c" in options.flags and not _can_compress(session)):
        raise _unsupported("write")
    else:
        data = await _content(session, options, pattern, length)
        request = session.backend.pwrite(offset, data, flags)
    _, seconds = await _timed(session, "write", request)
    session.print(done_text(options, Done("wrote", offset, length, seconds)))


def _can_compress(session: IoSession) -> bool:
    return session.node.driver.supports_compressed_writes


def _check_write(options: Options) -> None:
    """Refuse flags that contradict each other."""
    flags = options.flags
    if {"b", "z"} <= flags:
        raise IoRefusal("-b and -z cannot be specified at the same time\n")
    if "f" in flags and {"b", "c"} & flags:
        raise IoRefusal("-f and -b or -c cannot be specified at the same time\n")
    for letter in "nu":
        if letter in flags and "z" not in flags:
            raise IoRefusal(f"-{letter} requires -z to be specified\n")
    if ("z" in flags) + ("P" in options.values) + ("s" in options.values) > 1:
        raise IoRefusal("Only one of -z, -P, and -s can be specified at the same time\n")


async def _content(session: IoSession, options: Options, pattern: int, length: int) -> Buffer:
    path = options.values.get("s")
    if path is None:
        return filled(pattern, length)
    try:
        file = await session.context.layer.storage.open(path, read_only=True)
        try:
            data = bytes(await file.pread(0, min(file.size(), length)))
        finally:
            await file.close()
    except OSError as error:
        raise IoMistake(f"{path}: {strerror(error)}\n") from error
    if not data:
        raise IoMistake(f"{path}: file is empty\n")
    return (data * (length // len(data) + 1))[:length]


async def writev(session: IoSession, words: list[str]) -> None:
    """``writev``: a range given as several lengths."""
    options = Options(session.command, words, "CfqP:")
    pattern = options.pattern(WRITE_PATTERN)
    offset, length = vector(options)
    data = filled(pattern, length)
    request = session.backend.pwrite(offset, data, write_flags(options))
    _, seconds = await _timed(session, "writev", request)
    session.print(done_text(options, Done("wrote", offset, length, seconds)))


async def discard(session: IoSession, words: list[str]) -> None:
    """``discard``: one range."""
    options = Options(session.command, words, "Cq")
    if len(options.operands) != 2:
        raise IoUsage
    offset, length = parse_number(options.operands[0]), _length(options.operands[1])
    _, seconds = await _timed(session, "discard", session.backend.pdiscard(offset, length))
    session.print(done_text(options, Done("discard", offset, length, seconds)))


# What waiting and asynchronous requests share.


def write_flags(options: Options) -> WriteFlags:
    """Return the flags of a write."""
    flags = WriteFlags.NONE
    for letter, flag in (
        ("c", WriteFlags.COMPRESSED),
        ("f", WriteFlags.FUA),
        ("n", WriteFlags.NO_FALLBACK),
        ("u", WriteFlags.MAY_UNMAP),
    ):
        if letter in options.flags:
            flags |= flag
    return flags


def filled(pattern: int, length: int) -> bytes:
    """Return ``length`` bytes of one value."""
    return bytes(length) if not pattern else bytes([pattern]) * length


def vector(options: Options) -> tuple[int, int]:
    """Return the range that an offset and several lengths give; raises ``IoRefusal``."""
    if len(options.operands) < 2:
        raise IoUsage
    offset = parse_number(options.operands[0])
    total = 0
    for text in options.operands[1:]:
        length = parse_number(text)
        if length > REQUEST_MAX:
            raise IoRefusal(f"Argument '{text}' exceeds maximum size {REQUEST_MAX}\n")
        total += length
        if total > REQUEST_MAX:
            raise IoRefusal(f"The total number of bytes exceed the maximum size {REQUEST_MAX}\n")
    return offset, total


def read_text(options: Options, data: Buffer, offset: int, seconds: float) -> str:
    """Return the bytes (``-v``) and the figures of a read, unless it is to be quiet."""
    shown = "v" in options.flags and "q" not in options.flags
    text = dump(data, offset) if shown else ""
    return text + done_text(options, Done("read", offset, len(data), seconds))


def done_text(options: Options, done: Done) -> str:
    """Return the figures of a request, unless it is to be quiet."""
    return "" if "q" in options.flags else report(done, machine="C" in options.flags)


async def _timed(session: IoSession, name: str, request: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """Return what a request returns and the seconds it took; raises ``IoRefusal``."""
    start = session.now()
    try:
        result = await session.wait(request)
    except OSError as error:
        raise IoRefusal(f"{name} failed: {strerror(error)}\n") from error
    return result, session.now() - start


def check_sectors(offset: int, length: int) -> None:
    """Refuse what is not in whole sectors."""
    for value, name in ((offset, "offset"), (length, "count")):
        if value % SECTOR:
            raise IoRefusal(f"{value} is not a sector-aligned value for '{name}'\n")


def _length(text: str, *, unbounded: bool = False, hint: str = "") -> int:
    length = parse_number(text)
    if length > REQUEST_MAX and not unbounded:
        raise IoRefusal(f"length cannot exceed {REQUEST_MAX}{hint}, given {text}\n")
    return length


def _unsupported(name: str) -> IoRefusal:
    return IoRefusal(f"{name} failed: {os.strerror(errno.EOPNOTSUPP)}\n")
