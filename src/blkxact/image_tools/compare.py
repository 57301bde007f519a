"""Whether two disks read the same.

Only what is data in one of the two is read: holes and zeroes on both sides are equal by what the
images' maps say. The part by which one disk is longer must read as zeroes. What lies in files is
compared there (``side_by_side``); only where that finds a difference or cannot be done are bytes
read through the images, which says what differs or fails, and where.

QEMU's counterpart: ``img_compare`` in ``qemu-img.c``; exit statuses and messages are its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

from blkxact.block.backend import BlockBackend
from blkxact.block.types import SECTOR, Extent, Status
from blkxact.errors import QmpError, strerror

from .ahead import in_order
from .side_by_side import BATCH, Pair, differences_in_files, side_by_side

MAP_BYTES: Final = 1 << 30
"""How much of the disks one look at their maps covers."""
READ_BYTES: Final = 2 << 20
BLOCK: Final = 4096
"""Unit in which files are compared: so small that no more is read at a time than a cache holds."""
AHEAD: Final = 2
"""Batches that are compared at a time besides the one that is waited for."""


class ImagesDifferError(Exception):
    """The two differ; the text says where, as ``qemu-img`` does."""


class ReadError(QmpError):
    """One of the two could not be read."""


class MapError(QmpError):
    """The map of one of the two could not be read."""


async def compare_disks(
    one: BlockBackend,
    other: BlockBackend,
    *,
    strict: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    warn: Callable[[str], None] = lambda _text: None,
) -> None:
    """Return if the disks read the same; else raise ``ImagesDifferError``.

    ``strict``: they must also be of one size and have the same clusters allocated. ``progress``
    is called with bytes done and bytes in all, ``warn`` for different sizes. What cannot be
    read raises ``ReadError``, or ``MapError`` for a map.
    """
    if strict and one.length != other.length:
        raise ImagesDifferError("Strict mode: Image size mismatch!")
    common = min(one.length, other.length)
    batches = _batches(one, other, common, strict=strict)
    async for batch, _ in in_order(batches, partial(_compare, one, other), ahead=AHEAD):
        progress(batch[-1].end, common)
    if one.length != other.length:
        warn("Warning: Image size mismatch!")
    longer = one if one.length > common else other
    await _check_zeroes(longer, common, longer.length)


async def _batches(
    one: BlockBackend, other: BlockBackend, end: int, *, strict: bool
) -> AsyncIterator[list[Pair]]:
    """Yield what is to be compared, in order, ``BATCH`` bytes or less at a time.

    Raises ``MapError``, and ``ImagesDifferError`` for what ``strict`` does not allow.
    """
    batch: list[Pair] = []
    room = BATCH
    for start in range(0, end, MAP_BYTES):
        length = min(MAP_BYTES, end - start)
        left = await _map(one, start, length)
        right = await _map(other, start, length)
        for whole in side_by_side(left, right):
            if strict and _kind(whole.mine.status) != _kind(whole.yours.status):
                if batch:
                    yield batch
                raise ImagesDifferError(
                    f"Strict mode: Offset {whole.offset} block status mismatch!"
                )
            for pair in [whole] if whole.is_equal else whole.steps(BATCH):
                data = 0 if pair.is_equal else pair.length
                if batch and data > room:
                    yield batch
                    batch, room = [], BATCH
                batch.append(pair)
                room -= data
        if batch:
            yield batch
        batch, room = [], BATCH


def _kind(status: Status) -> Status:
    return status & (Status.ZERO | Status.ALLOCATED)


async def _compare(one: BlockBackend, other: BlockBackend, batch: list[Pair]) -> None:
    """Raise ``ImagesDifferError`` for the first sector that differs, or ``ReadError``."""
    try:
        found = await differences_in_files(batch, BLOCK)
    except OSError:
        found = None  # the same again as bytes says where it fails
    for number, pair in enumerate(batch):
        if found is None or found[number]:
            await _compare_bytes(one, other, pair)


async def _compare_bytes(one: BlockBackend, other: BlockBackend, pair: Pair) -> None:
    if pair.is_equal:
        return
    for start in range(pair.offset, pair.end, READ_BYTES):
        size = min(READ_BYTES, pair.end - start)
        mine = await _read(one, start, size)
        yours = await _read(other, start, size)
        if mine != yours:
            raise _mismatch(start, mine, yours)


async def _map(disk: BlockBackend, offset: int, length: int) -> list[Extent]:
    try:
        return await disk.block_status(offset, length)
    except OSError as error:
        raise MapError(f"Sector allocation test failed for {_name(disk)}") from error


def _name(disk: BlockBackend) -> str:
    return disk.node.filename if disk.node else ""


async def _read(disk: BlockBackend, offset: int, length: int) -> bytes:
    try:
        return bytes(await disk.pread(offset, length))
    except OSError as error:
        raise ReadError(
            f"Error while reading offset {offset} of {_name(disk)}: {strerror(error)}"
        ) from error


async def _check_zeroes(disk: BlockBackend, start: int, end: int) -> None:
    for offset in range(start, end, MAP_BYTES):
        for extent in await _map(disk, offset, min(MAP_BYTES, end - offset)):
            if extent.status & Status.ZERO:
                continue
            for at in range(extent.offset, extent.offset + extent.length, READ_BYTES):
                size = min(READ_BYTES, extent.offset + extent.length - at)
                found = await _read(disk, at, size)
                if found != bytes(size):
                    raise _mismatch(at, found, bytes(size))


def _mismatch(start: int, mine: bytes, yours: bytes) -> ImagesDifferError:
    """Return the error that names the first sector that differs."""
    low, high = 0, len(mine)
    while high - low > 1:  # halve the range that holds the first difference
        middle = (low + high) // 2
        low, high = (low, middle) if mine[low:middle] != yours[low:middle] else (middle, high)
    place = (start + low) // SECTOR * SECTOR
    return ImagesDifferError(f"Content mismatch at offset {place}!")
