"""The order in which QEMU lists the bitmaps of a node; apart, as most nodes have no bitmap."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap


def latest_first(bitmaps: Iterable[DirtyBitmap]) -> list[DirtyBitmap]:
    """Return bitmaps of one node in QEMU's order; a successor is an entry of its own."""
    return sorted(bitmaps, key=attrgetter("serial"), reverse=True)
