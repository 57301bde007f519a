"""The bitmap directory written in place, and without entries that keep an image from opening."""

from __future__ import annotations

from blkxact.errors import QmpError

from .bitmap_clusters import BitmapClusters
from .image import Image
from .layout import AUTOCLEAR_BITMAPS, BitmapsExtension
from .layout_tables import (
    BitmapEntry,
    check_bitmap_entry,
    pack_bitmap_directory,
    read_bitmap_directory,
)


async def rewrite_directory(image: Image, count: int, packed: bytes) -> None:
    """Write a directory of ``count`` entries over the present one (under the lock).

    It is not valid meanwhile, nor after an ``OSError``.
    """
    header, place = image.header, image.header.bitmaps
    assert place is not None
    header.autoclear &= ~AUTOCLEAR_BITMAPS
    await image.write_header()
    await image.file.child.pwrite(place.directory_offset, packed)
    await image.file.barrier()
    header.bitmaps = BitmapsExtension(count, len(packed), place.directory_offset)
    header.autoclear |= AUTOCLEAR_BITMAPS
    try:
        await image.write_header()
    except OSError:
        header.bitmaps = place
        header.autoclear &= ~AUTOCLEAR_BITMAPS
        raise


async def drop_bad_bitmaps(image: Image, name: str | None = None) -> list[str]:
    """Take entries that keep an image from being opened out of its directory; return their names.

    With ``name`` only that bitmap, good or not. A directory that cannot be read as entries goes as
    a whole. Their clusters leak, and a check finds them. Raises ``QmpError`` and ``OSError``.
    """
    place = image.header.bitmaps
    if place is None:
        return []
    data = await image.file.child.pread(place.directory_offset, place.directory_size)
    try:
        entries = list(read_bitmap_directory(bytes(data), place.count))
    except QmpError:
        if name is not None:
            raise
        await _write(image, [])
        return ["(all)"]
    clusters = BitmapClusters(image)
    clusters.unread = -(-image.file.child.length >> image.cluster_bits)
    kept: list[BitmapEntry] = []
    dropped: list[BitmapEntry] = []
    for entry in entries:
        good = entry.name != name if name else await _is_good(image, clusters, entry)
        (kept if good else dropped).append(entry)
    if dropped:
        await _write(image, kept)
    return [entry.name for entry in dropped]


async def _is_good(image: Image, clusters: BitmapClusters, entry: BitmapEntry) -> bool:
    from blkxact.bitmap import DirtyBitmap  # noqa: PLC0415 - most images have none

    try:
        check_bitmap_entry(entry, image.header, image.size)
        if not entry.in_use:
            bitmap = DirtyBitmap(image.size, 1 << entry.granularity_bits, entry.name)
            await clusters.read_whole_table(bitmap, entry)
    except (QmpError, ValueError):
        return False
    return True


async def _write(image: Image, entries: list[BitmapEntry]) -> None:
    async with image.lock:
        if entries:
            await rewrite_directory(image, len(entries), pack_bitmap_directory(entries))
            return
        image.header.bitmaps = None
        image.header.autoclear &= ~AUTOCLEAR_BITMAPS
        await image.write_header()
