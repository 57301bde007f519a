"""From runs of clusters to extents: where the bytes of the disk can be read in a host's file.

The file below is asked once for each run of clusters that follow one another. Holes in it are told
as zeroes by whole clusters only: finer ones would cost the reader more than they spare.

QEMU's counterpart: ``qcow2_co_block_status``.
"""

from __future__ import annotations

from blkxact.block.driver_api import Extent, Status
from blkxact.storage.api import StorageFile

from .cluster_map import Kind, Run
from .metadata_file import Child

ALLOCATED_DATA = Status.DATA | Status.ALLOCATED
ALLOCATED_ZERO = Status.ZERO | Status.ALLOCATED

_STATUS = {
    Kind.UNALLOCATED: Status.NONE,
    Kind.ZERO: ALLOCATED_ZERO,
    Kind.ZERO_ALLOCATED: ALLOCATED_ZERO,
    Kind.NORMAL: ALLOCATED_DATA,
    Kind.COMPRESSED: ALLOCATED_DATA | Status.COMPRESSED,
}


async def run_extents(child: Child, runs: list[Run], cluster_size: int) -> list[Extent]:
    """Return the extents of runs that cover a range."""
    extents: list[Extent] = []
    for run in runs:
        if run.kind is Kind.NORMAL:
            below = await child.block_status(run.host, run.length)
            for extent in _normal_extents(run, below, cluster_size):
                _append(extents, extent)
        else:
            _append(extents, Extent(run.offset, run.length, _STATUS[run.kind]))
    return extents


def _normal_extents(run: Run, below: list[Extent], cluster_size: int) -> list[Extent]:
    """Return the extents of clusters with data, given what the file below says of them."""
    file, shift = _common_file(below)
    delta = run.offset - run.host
    extents: list[Extent] = []
    position = run.offset

    def data_until(end: int) -> None:
        if end > position:
            where = position - delta + shift if file else 0
            extents.append(Extent(position, end - position, ALLOCATED_DATA, file, where))

    for hole in below:
        if not hole.status & Status.ZERO:
            continue
        start, end = hole.offset + delta, hole.offset + delta + hole.length
        # Whole clusters only; the run's own ends may cut theirs.
        if start > run.offset:
            start = -(-start // cluster_size) * cluster_size
        if end < run.end:
            end -= end % cluster_size
        if start < end:
            data_until(start)
            extents.append(Extent(start, end - start, ALLOCATED_DATA | Status.ZERO))
            position = end
    data_until(run.end)
    return extents


def _common_file(below: list[Extent]) -> tuple[StorageFile | None, int]:
    """Return the file in which all data lies, and how far it is shifted there; else None."""
    places = {(id(e.file), e.file_offset - e.offset) for e in below if not e.status & Status.ZERO}
    first = next((e for e in below if e.file is not None and not e.status & Status.ZERO), None)
    if first is None or len(places) != 1:
        return None, 0
    return first.file, first.file_offset - first.offset


def _append(extents: list[Extent], extent: Extent) -> None:
    """Append an extent, or lengthen the last one where both are one."""
    if extents:
        last = extents[-1]
        follows = last.file_offset + last.length == extent.file_offset
        if (
            last.status == extent.status
            and last.file is extent.file
            and (extent.file is None or follows)
            and not extent.status & Status.COMPRESSED
        ):
            extents[-1] = last._replace(length=last.length + extent.length)
            return
    extents.append(extent)
