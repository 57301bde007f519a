"""Whether two disks read the same.

Only what is data in one of the two is read: holes and zeroes on both sides are equal by what the
images' maps say. The part by which one disk is longer must read as zeroes.

QEMU's counterpart: ``img_compare`` in ``qemu-img.c``; exit statuses and messages are its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from blkxact.block.backend import BlockBackend
from blkxact.block.types import SECTOR, Extent, Status
from blkxact.errors import QmpError, strerror

MAP_BYTES: Final = 1 << 30
"""How much of the disks one look at their maps covers."""
READ_BYTES: Final = 2 << 20


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
    async for offset, length, mine, yours in _pieces(one, other, common):
        if strict and _kind(mine) != _kind(yours):
            raise ImagesDifferError(f"Strict mode: Offset {offset} block status mismatch!")
        if not (mine & Status.ZERO and yours & Status.ZERO):
            await _compare(one, other, offset, length)
        progress(offset + length, common)
    if one.length != other.length:
        warn("Warning: Image size mismatch!")
    longer = one if one.length > common else other
    await _check_zeroes(longer, common, longer.length)


async def _pieces(
    one: BlockBackend, other: BlockBackend, end: int
) -> AsyncIterator[tuple[int, int, Status, Status]]:
    """Yield ``(offset, length, status in one, status in other)`` up to ``end``."""
    for start in range(0, end, MAP_BYTES):
        length = min(MAP_BYTES, end - start)
        left = await _map(one, start, length)
        right = await _map(other, start, length)
        for piece in _overlay(left, right):
            yield piece


def _overlay(left: list[Extent], right: list[Extent]) -> list[tuple[int, int, Status, Status]]:
    """Return the pieces that are of one kind in both maps, which cover the same range."""
    pieces = []
    ours, theirs = iter(left), iter(right)
    mine, yours = next(ours), next(theirs)
    offset = mine.offset
    while True:
        mine_end = mine.offset + mine.length
        yours_end = yours.offset + yours.length
        end = min(mine_end, yours_end)
        pieces.append((offset, end - offset, mine.status, yours.status))
        offset = end
        if mine_end == end:
            following = next(ours, None)
            if following is None:
                return pieces
            mine = following
        if yours_end == end:
            yours = next(theirs)


def _kind(status: Status) -> Status:
    return status & (Status.ZERO | Status.ALLOCATED)


async def _compare(one: BlockBackend, other: BlockBackend, offset: int, length: int) -> None:
    for start in range(offset, offset + length, READ_BYTES):
        size = min(READ_BYTES, offset + length - start)
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
                if found.count(0) != size:
                    raise _mismatch(at, found, bytes(size))


def _mismatch(start: int, mine: bytes, yours: bytes) -> ImagesDifferError:
    """Return the error that names the first sector that differs."""
    low, high = 0, len(mine)
    while high - low > 1:  # halve the range that holds the first difference
        middle = (low + high) // 2
        low, high = (low, middle) if mine[low:middle] != yours[low:middle] else (middle, high)
    place = (start + low) // SECTOR * SECTOR
    return ImagesDifferError(f"Content mismatch at offset {place}!")
