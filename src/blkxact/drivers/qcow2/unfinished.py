"""The mark of an image whose reference counts and COPIED flags are being changed together.

After a crash the next writer finds the mark and sets both right. Version 3 has the dirty bit for
it. Version 2 has no features, so the mark is a header extension without data, which other programs
ignore and keep. It is only used where header, extensions and backing file name take one sector,
which no crash can tear; elsewhere (a long backing file name) the next ``check -r`` repairs.
"""

from __future__ import annotations

import contextlib
from typing import Final

from blkxact.block.types import SECTOR

from .image import Image
from .layout import INCOMPATIBLE_DIRTY, Header, pack_header

EXTENSION: Final = (0x626C6B78, b"")
"""Type ("blkx") and data of the extension."""


def is_marked(header: Header) -> bool:
    """Return whether counts and flags may disagree."""
    if header.version >= 3:
        return bool(header.incompatible & INCOMPATIBLE_DIRTY)
    return EXTENSION in header.unknown_extensions


async def mark(image: Image) -> None:
    """Mark the image, before counts or flags change; raises ``OSError``."""
    header = image.header
    await image.file.barrier()
    if header.version >= 3:
        header.incompatible |= INCOMPATIBLE_DIRTY
        await image.file.write_incompatible()
    elif not is_marked(header):
        header.unknown_extensions.append(EXTENSION)
        if _fits_sector(header):
            await image.write_header()
        else:
            header.unknown_extensions.remove(EXTENSION)


async def unmark(image: Image) -> None:
    """Take the mark away, once counts and flags agree; raises ``OSError``."""
    header = image.header
    await image.file.barrier()
    if header.version >= 3:
        header.incompatible &= ~INCOMPATIBLE_DIRTY
        await image.file.write_incompatible()
    elif is_marked(header):
        header.unknown_extensions.remove(EXTENSION)
        await image.write_header()


def _fits_sector(header: Header) -> bool:
    with contextlib.suppress(OSError):  # it does not even fit the cluster
        return not any(pack_header(header)[SECTOR:])
    return False
