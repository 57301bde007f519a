"""Where the data of a disk lies: which layer decides each range, and where in which file.

As ``chain_status`` of the block layer, but it also reports the places of zeroes and of what no
layer has, as ``qemu-img map`` does.

QEMU's counterpart: ``img_map`` in ``qemu-img.c``; ``qapi/block-core.json`` (MapEntry).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple

from blkxact.block.chain import backing_chain_next, skip_filters
from blkxact.block.node import BlockNode
from blkxact.block.types import Status
from blkxact.drivers.qcow2.driver import Qcow2Driver
from blkxact.drivers.qcow2.runs import Kind, Run
from blkxact.drivers.raw import RawDriver

WINDOW = 1 << 30
"""Bytes of the disk looked at in one go."""


class MapEntry(NamedTuple):
    """A range of the disk of one kind."""

    start: int
    length: int
    data: bool
    zero: bool
    present: bool
    """A layer decides it; if not, it reads as zeroes because none does."""
    depth: int
    """How many backing files above the layer that decides it."""
    offset: int | None = None
    """Where it lies in the file, if it does as it is."""
    filename: str | None = None
    decided: bool = True
    """No layer below is asked."""

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.length

    def describe(self) -> dict[str, Any]:
        """Return the members that ``qemu-img map`` prints."""
        members = {
            "start": self.start,
            "length": self.length,
            "depth": self.depth,
            "present": self.present,
            "zero": self.zero,
            "data": self.data,
        }
        return members if self.offset is None else {**members, "offset": self.offset}

    def part(self, start: int, end: int) -> MapEntry:
        """Return the piece between two positions on the disk."""
        offset = None if self.offset is None else self.offset + start - self.start
        return self._replace(start=start, length=end - start, offset=offset)

    def follows(self, last: MapEntry) -> bool:
        """Return whether this entry only lengthens the last one."""
        if self[2:6] != last[2:6] or self.filename != last.filename:
            return False
        if self.offset is None or last.offset is None:
            return self.offset is last.offset
        return last.offset + last.length == self.offset


async def map_disk(node: BlockNode, start: int, end: int) -> AsyncIterator[MapEntry]:
    """Yield the entries of a range in order, neighbours alike merged; raises ``OSError``."""
    last: MapEntry | None = None
    for offset in range(start, end, WINDOW):
        entries = await _window(skip_filters(node), 0, offset, min(offset + WINDOW, end))
        for entry in sorted(entries):
            if last is not None and entry.follows(last):
                last = last._replace(length=last.length + entry.length)
                continue
            if last is not None:
                yield last
            last = entry
    if last is not None:
        yield last


async def _window(node: BlockNode, depth: int, start: int, end: int) -> list[MapEntry]:
    """Return the entries of a range, some of them from lower layers, in no order."""
    entries: list[MapEntry] = []
    below = backing_chain_next(node)
    for entry in await _layer(node, depth, start, end):
        if entry.decided:
            entries.append(entry)
            continue
        shown = entry.start if below is None else max(entry.start, min(entry.end, below.length))
        if below is not None and shown > entry.start:
            entries += await _window(below, depth + 1, entry.start, shown)
        if shown < entry.end:
            # A subcluster that no layer has may have a place all the same.
            entries.append(entry.part(shown, entry.end)._replace(zero=True))
    return entries


async def _layer(node: BlockNode, depth: int, start: int, end: int) -> list[MapEntry]:
    """Return what one layer says of a range."""
    stop = min(end, node.length)
    entries = []
    if start < stop:
        for extent in await node.layer_status((start, stop - start)):
            status = extent.status
            entries.append(
                MapEntry(
                    extent.offset,
                    extent.length,
                    bool(status & Status.DATA),
                    bool(status & Status.ZERO),
                    bool(status & Status.ALLOCATED),
                    depth,
                    decided=bool(status),
                )
            )
        entries = await _with_places(node, entries, start, stop)
    return entries


async def _with_places(
    node: BlockNode, entries: list[MapEntry], start: int, end: int
) -> list[MapEntry]:
    """Return the entries of a layer with the places in the file that its driver knows."""
    driver = node.driver
    if isinstance(driver, Qcow2Driver):
        runs = await driver.image.runs(start, end - start)
        holder = node.children.get("data-file") or node.children["file"]
        return list(_overlay(entries, runs, holder.node.filename, driver.image.data_shift))
    if driver.is_identity_mapped:
        return [_placed(entry, entry.start, node.filename) for entry in entries]
    if isinstance(driver, RawDriver) and node.primary is not None:
        below = node.primary
        if below.driver.is_identity_mapped:
            name = below.filename
            return [_placed(entry, entry.start + driver.offset, name) for entry in entries]
    return entries


def _placed(entry: MapEntry, offset: int, filename: str) -> MapEntry:
    """Return the entry with its place, if there is anything to be found."""
    known = entry.data or entry.zero
    return entry._replace(offset=offset, filename=filename) if known else entry


def _overlay(
    entries: Iterable[MapEntry], runs: list[Run], filename: str | None, shift: int
) -> Iterator[MapEntry]:
    """Cut the entries where runs end, and take the runs' places, less ``shift``, over."""
    at = 0
    for entry in entries:
        position = entry.start
        while position < entry.end:
            while runs[at].end <= position:
                at += 1
            run = runs[at]
            piece = entry.part(position, min(entry.end, run.end))
            if run.host and run.kind is not Kind.COMPRESSED:
                place = run.host - shift + position - run.offset
                piece = piece._replace(offset=place, filename=filename)
            yield piece
            position = piece.end
