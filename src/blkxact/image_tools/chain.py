"""What each image of a backing chain holds: the increments of a backup, for a person to see.

Nothing is written. What an upper layer hides of a lower one still counts as held by the lower one;
``visible`` is what of it the disk shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from blkxact.block.chain import backing_chain_next, skip_filters
from blkxact.block.node import BlockNode
from blkxact.block.types import Status
from blkxact.blockdev.info import actual_size, bitmaps_info

from .map import map_disk
from .snapshot import list_snapshots

WINDOW = 1 << 30
DEFAULT_CELLS = 64
"""Parts into which a picture divides the disk."""


@dataclass(slots=True)
class Picture:
    """How many bytes of each of equal parts of a disk are held, or shown, by somebody."""

    length: int
    cells: list[int]

    @classmethod
    def empty(cls, length: int, cells: int) -> Picture:
        """Return the picture of a disk of which nothing is held."""
        return cls(length, [0] * max(1, min(cells, length)))

    def border(self, cell: int) -> int:
        """Return where a cell starts on the disk."""
        return cell * self.length // len(self.cells)

    def add(self, offset: int, length: int) -> None:
        """Count a range of the disk."""
        end = min(offset + length, self.length)
        cell = offset * len(self.cells) // self.length if self.length else 0
        while offset < end:
            while self.border(cell + 1) <= offset:
                cell += 1
            stop = min(end, self.border(cell + 1))
            self.cells[cell] += stop - offset
            offset = stop

    def fractions(self) -> list[float]:
        """Return how full each cell is, from 0 to 1."""
        borders = [self.border(cell) for cell in range(len(self.cells) + 1)]
        return [
            held / (borders[cell + 1] - borders[cell] or 1) for cell, held in enumerate(self.cells)
        ]


@dataclass(slots=True)
class Layer:
    """One image of a chain. Numbers are bytes, but for ``extents``."""

    level: int
    """0 is the lowest."""
    filename: str
    format: str
    virtual_size: int
    file_size: int | None
    """What the file takes on its file system."""
    written: datetime | None
    """When the file was last written to."""
    held: Picture
    shown: Picture
    data: int = 0
    """Held as data in this layer."""
    zeroes: int = 0
    """Held as zeroes in this layer, which hide what is below."""
    extents: int = 0
    visible: int = 0
    """Data of this layer that the disk shows."""
    bitmaps: list[dict[str, Any]] = field(default_factory=list)
    snapshots: int = 0

    def describe(self) -> dict[str, Any]:
        """Return the members for JSON."""
        return {
            "level": self.level,
            "filename": self.filename,
            "format": self.format,
            "virtual-size": self.virtual_size,
            "actual-size": self.file_size,
            "written": None if self.written is None else self.written.isoformat(),
            "data-bytes": self.data,
            "zero-bytes": self.zeroes,
            "extents": self.extents,
            "visible-bytes": self.visible,
            "dirty-bitmaps": self.bitmaps,
            "snapshots": self.snapshots,
            "picture": [round(fraction, 4) for fraction in self.held.fractions()],
        }


async def chain_layers(top: BlockNode, cells: int = DEFAULT_CELLS) -> list[Layer]:
    """Return the layers of an open chain, the uppermost first; raises ``OSError``."""
    nodes = list(chain_nodes(top))
    layers = [_layer(node, len(nodes) - 1 - at, top.length, cells) for at, node in enumerate(nodes)]
    for node, layer in zip(nodes, layers, strict=True):
        await _count_held(node, layer)
    async for entry in map_disk(top, 0, top.length):
        if entry.data and not entry.zero:
            layers[entry.depth].visible += entry.length
            layers[entry.depth].shown.add(entry.start, entry.length)
    return layers


def chain_nodes(top: BlockNode) -> Iterator[BlockNode]:
    """Yield the images of a chain, the uppermost first."""
    node: BlockNode | None = skip_filters(top)
    while node is not None:
        yield node
        below = backing_chain_next(node)
        node = None if below is None else skip_filters(below)


def _layer(node: BlockNode, level: int, length: int, cells: int) -> Layer:
    return Layer(
        level,
        image_file(node),
        node.driver.format_name,
        node.length,
        actual_size(node),
        written_at(node),
        Picture.empty(length, cells),
        Picture.empty(length, cells),
        bitmaps=bitmaps_info(node),
        snapshots=len(list_snapshots(node)),
    )


def image_file(node: BlockNode) -> str:
    """Return the name of the file that an image lies in."""
    primary = node.primary
    return primary.filename if primary is not None and primary.driver.is_protocol else node.filename


def written_at(node: BlockNode) -> datetime | None:
    """Return when the image's file was last written to, if it is a file."""
    try:
        return datetime.fromtimestamp(os.stat(image_file(node)).st_mtime, UTC)  # noqa: PTH116 - loads nothing
    except OSError:
        return None


async def _count_held(node: BlockNode, layer: Layer) -> None:
    for offset in range(0, node.length, WINDOW):
        before = Status.NONE
        for extent in await node.layer_status((offset, min(WINDOW, node.length - offset))):
            kind = extent.status & (Status.ALLOCATED | Status.ZERO)
            # A hole in a raw file, or the end of a chain, is nothing that anybody wrote.
            nothing = node.backing is None and bool(kind & Status.ZERO)
            if kind & Status.ALLOCATED and not nothing:
                layer.extents += kind != before
                layer.held.add(extent.offset, extent.length)
                if kind & Status.ZERO:
                    layer.zeroes += extent.length
                else:
                    layer.data += extent.length
            before = Status.NONE if nothing else kind
