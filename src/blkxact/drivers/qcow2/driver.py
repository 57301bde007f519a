"""qcow2 as a node of the block graph.

Invariants:

* A request on clusters that lie in one piece costs one look at the map and one request below.
* Nothing is written by opening an image, unless it must be: an image that was not closed cleanly
  is repaired, and features that a writer must clear are cleared.

QEMU's counterpart: ``block/qcow2.c``; ``qapi/block-core.json`` (BlockdevOptionsQcow2,
ImageInfoSpecificQCow2).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from blkxact.block.child import NO_FLAGS
from blkxact.block.driver_api import BlockDriver
from blkxact.block.losses import reporting_unwritten
from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Extent, WriteFlags
from blkxact.enums import BlkdebugEvent, PreallocMode
from blkxact.errors import QmpError, os_error
from blkxact.storage.api import Buffer, Payload, Runs

from .bitmap_directory import BitmapDirectory
from .compressed_reader import CompressedReader
from .compressed_writer import CompressedWriter
from .data_file import NAME as DATA_FILE
from .describe import describe, limits_of
from .extents import run_extents
from .image import Image, may_have_data_file, open_image, read_header
from .layout import (
    INCOMPATIBLE_CORRUPT,
    INCOMPATIBLE_DIRTY,
    MAX_BACKING_FORMAT,
    MAX_BACKING_NAME,
)
from .prepare import prepare_writing
from .run_writer import RunWriter
from .runs import Kind, Run
from .runtime_options import NAMES, cache_sizes, check_runtime_options, discards_file
from .snapshots import Qcow2Snapshots
from .unmap import Unmapper
from .writer import Writer

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsQcow2


class Qcow2Driver(BlockDriver):
    """The driver ``qcow2``."""

    format_name = "qcow2"
    opens_plain_names = True
    supports_backing = True
    can_compress = True
    reopenable = NAMES
    resettable = NAMES

    def __init__(self, context: OpenContext, children: Mapping[str, Child], image: Image) -> None:
        super().__init__(context, children)
        self._take_image(image)

    def _take_image(self, image: Image) -> None:
        self.image = image
        image.file.on_corruption = self.context.on_corruption
        self.map = image.map
        self.length = image.size
        self.cluster_size, self.subcluster_size = image.cluster_size, image.subcluster_size
        self.own_limits = limits_of(image)
        self.unmaps_zeroes = image.header.version >= 3
        self.writer = Writer(image, self.pread)
        self.run_writer = RunWriter(image, self.writer)
        self.compressed_reader = CompressedReader(image)
        self.compressed_writer = CompressedWriter(image, self.writer)
        self.unmapper = Unmapper(image, self.writer, self.pread)
        self.bitmaps = BitmapDirectory(image)
        self.internal_snapshots = Qcow2Snapshots(image, self._take_length)

    def refresh_limits(self) -> None:
        """Learn that the file has another length."""
        self.image.refcounts.look_at_length()

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return the roles of ``file`` and, if the options define it, of ``data-file``."""
        roles = {"file": ChildRole.IMAGE}
        if options.data_file is not None:
            roles[DATA_FILE] = ChildRole.DATA
        return roles

    @classmethod
    async def named_children(
        cls, children: Mapping[str, Child]
    ) -> Mapping[str, tuple[ChildRole, str]]:
        """Return the data file that the header names."""
        if DATA_FILE in children or not await may_have_data_file(children["file"]):
            return {}
        header, _ = await read_header(children["file"])
        if not header.has_data_file or header.data_file is None:
            return {}
        return {DATA_FILE: (ChildRole.DATA, header.data_file)}

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsQcow2, children: Mapping[str, Child]
    ) -> Qcow2Driver:
        """Open an image; raises ``QmpError``."""
        if DATA_FILE in children:
            children["file"].role &= ~ChildRole.DATA
        writable = not context.read_only and not context.inactive
        image = await open_image(children, writable=writable, without_data=context.env.no_io)
        check_runtime_options(options, image.header, image.size)
        driver = cls(context, children, image)
        await driver._begin(options)
        return driver

    async def _begin(self, options: BlockdevOptionsQcow2) -> None:
        """Begin to use the image that was opened; raises ``QmpError``."""
        self._take_options(options)
        await self.bitmaps.load()
        if self.image.file.writable:
            await prepare_writing(self.image)

    async def invalidate_cache(self) -> None:
        """Open the image again; raises ``QmpError``."""
        old = self.image
        image = await open_image(self.children, writable=not self.read_only)
        self._take_image(image)
        try:
            check_runtime_options(self._options, image.header, image.size)
            await self._begin(self._options)
        except BaseException:
            self._take_image(old)
            raise

    def prepare_reopen(
        self, context: OpenContext, options: BlockdevOptionsQcow2
    ) -> Callable[[], None]:
        """Check what the options say of caches and reference counts."""
        check_runtime_options(options, self.image.header, self.image.size)
        take = super().prepare_reopen(context, options)

        def take_options() -> None:
            take()
            self._take_options(options)

        return take_options

    def _take_options(self, options: BlockdevOptionsQcow2) -> None:
        self._options = options
        self.unmapper.keep_places = bool(options.discard_no_unref)
        self.unmapper.discard_file = discards_file(options, discard=self.context.discard)
        self.image.limit_caches(cache_sizes(options, self.image.header, self.image.size))

    async def close(self) -> None:
        """Write back the metadata; the persistent bitmaps were stored before."""
        with reporting_unwritten():
            await self._settle()
        self.map.forget_all()

    async def activate_write(self) -> None:
        """Become writable; raises ``QmpError``."""
        if self.image.header.incompatible & INCOMPATIBLE_CORRUPT:
            raise QmpError("qcow2: Image is corrupt; cannot be opened read/write")
        self.image.file.writable = True
        self.image.protect()
        await prepare_writing(self.image)
        await self.bitmaps.mark_in_use()

    async def deactivate_write(self) -> None:
        """Write back what is cached and become read-only."""
        await self._settle()
        self.image.file.writable = False

    async def _settle(self) -> None:
        if self.image.file.writable and not self.image.file.dead:
            await self.flush()

    async def _forget_doomed_bitmaps(self) -> None:
        """Try again to take out of the image what an error kept there."""
        if self.bitmaps.doomed:
            with contextlib.suppress(QmpError):
                await self.bitmaps.remove_doomed()

    def _take_length(self) -> None:
        self.length = self.image.size

    # What the image is

    @property
    def backing_file(self) -> str:  # type: ignore[override]
        """The backing file that the header names."""
        return self.image.header.backing_file or ""

    @property
    def backing_format(self) -> str | None:  # type: ignore[override]
        """The backing file's format that the header names."""
        return self.image.header.backing_format

    @property
    def dirty_flag(self) -> bool:  # type: ignore[override]
        """Whether the header says that reference counts are to be repaired."""
        return bool(self.image.header.incompatible & INCOMPATIBLE_DIRTY)

    def image_specific(self) -> dict[str, Any]:
        """Return ImageInfoSpecific."""
        return describe(self.image.header, self.bitmaps)

    async def set_backing_file(self, name: str | None, fmt: str | None) -> None:
        """Write the backing file's name and format into the header; raises ``QmpError``."""
        if not self.image.file.writable:
            raise os_error(errno.EPERM)
        header = self.image.header
        if name is not None and header.data_file_raw:
            raise os_error(errno.EINVAL)
        if name is not None and len(os.fsencode(name)) > MAX_BACKING_NAME:
            raise QmpError("Backing file name too long")
        old = header.backing_file, header.backing_format
        header.backing_file, header.backing_format = name, fmt and fmt[:MAX_BACKING_FORMAT]
        try:
            async with self.image.lock:
                await self.image.write_header()
        except OSError:
            header.backing_file, header.backing_format = old
            raise

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read."""
        self.image.check_alive()
        host = self.map.find(offset, length)
        if host >= 0:
            if self.children["file"].wants_events:
                await self.image.file.event(BlkdebugEvent.READ_AIO)
            return await self.image.data.pread(host, length)
        if length == 0:
            return b""
        runs = await self.image.runs(offset, length)
        if len(runs) == 1 and runs[0].kind is not Kind.COMPRESSED:
            return await self._read_run(runs[0])
        parts: list[Buffer] = []
        for compressed, group in groupby(runs, lambda run: run.kind is Kind.COMPRESSED):
            if compressed:
                parts += await self._read_compressed(list(group))
            else:
                parts += [await self._read_run(run) for run in group]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_run(self, run: Run) -> Buffer:
        if run.kind is Kind.NORMAL:
            await self.image.file.event(BlkdebugEvent.READ_AIO)
            return await self.image.data.pread(run.host, run.length)
        if run.kind is Kind.UNALLOCATED and self.image.backing is not None:
            return await self._read_backing(run)
        return bytes(run.length)

    async def _read_backing(self, run: Run) -> Buffer:
        backing = self.image.backing
        assert backing is not None
        inside = max(0, min(run.end, backing.length) - run.offset)
        data: Buffer = b""
        if inside:
            await self.image.file.event(BlkdebugEvent.READ_BACKING_AIO)
            data = await backing.pread(run.offset, inside)
        return data if inside == run.length else b"".join((data, bytes(run.length - inside)))

    async def _read_compressed(self, runs: list[Run]) -> list[Buffer]:
        try:
            return await self.compressed_reader.read(runs)
        except OSError:
            # Overwritten since they were looked up, their bytes may be another's by now.
            start, length = runs[0].offset, runs[-1].end - runs[0].offset
            if await self.image.runs(start, length) == runs:
                raise
        return [await self.pread(start, length)]

    async def pwrite(self, offset: int, payload: Payload, flags: WriteFlags = NO_FLAGS) -> None:
        """Write; raises ``OSError``."""
        length = len(payload)
        self._check_write(offset, length)
        if flags is not NO_FLAGS and flags & WriteFlags.COMPRESSED:  # the operator is slow
            await self.compressed_writer.write(offset, payload)
            return
        if length == 0:
            return
        host = self.map.find(offset, length, in_place=True)
        held = None
        if host >= 0 and self.writer.may_overwrite(host, length):
            held = self.image.ranges.try_share(offset, offset + length)
        if held is None:
            await self.writer.write(offset, payload)
            return
        try:
            child = self.image.data
            if child.wants_events:
                await child.debug_event(BlkdebugEvent.WRITE_AIO)
            await child.pwrite(host, payload)
        finally:
            self.image.ranges.release(held)

    async def pwrite_runs(self, runs: Runs) -> None:
        """Write runs of whole clusters together, what else there is one by one."""
        mask = self.image.cluster_size - 1
        whole = [run for run in runs if not (run[0] | len(run[1])) & mask]
        if whole:
            last, payload = whole[-1]
            self._check_write(whole[0][0], last + len(payload) - whole[0][0])
            await self.run_writer.write(whole)
        if len(whole) < len(runs):
            for offset, payload in runs:
                if (offset | len(payload)) & mask:
                    await self.pwrite(offset, payload)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Make a range read as zeroes; raises ``OSError``."""
        self._check_write(offset, length)
        if length:
            await self.unmapper.zero(offset, length, flags)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Free the whole clusters of a range."""
        self._check_write(offset, length)
        # Without zero clusters the backing file's old data would come to light.
        if self.image.header.version >= 3 or self.image.backing is None:
            await self.unmapper.discard(offset, offset + length)

    async def make_empty(self) -> None:
        """Give all clusters of the disk back; raises ``OSError``."""
        await self.unmapper.discard(0, self.image.size, full=True)

    def _check_write(self, offset: int, length: int) -> None:
        self.image.check_alive()
        if offset + length > self.length:
            raise os_error(errno.EIO)

    async def flush(self) -> None:
        """Write back the metadata and make everything durable."""
        self.image.check_alive()
        await self._forget_doomed_bitmaps()
        await self.image.flush()

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return this layer's extents; what the backing file decides has no status."""
        return await self.block_status_of([(offset, length)])

    async def block_status_of(self, ranges: Sequence[tuple[int, int]]) -> list[Extent]:
        """Return the extents of several ranges."""
        self.image.check_alive()
        runs = await self.image.runs_of(ranges)
        return await run_extents(self.image.data, runs, self.image.cluster_size)

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Change the size of the disk; raises ``QmpError``."""
        self.image.check_alive()
        from .resize import check_bitmaps, check_resize, resize  # noqa: PLC0415 - opening needs none

        check_resize(self.image, length, prealloc)
        check_bitmaps(self.bitmaps, self.context)
        await resize(self.image, self.writer, self.unmapper, length, prealloc)
        self.length = self.image.size

    async def load_bitmaps(self, taken: Container[str] = ()) -> list[DirtyBitmap]:
        """Return the image's bitmaps; those of a writable image are marked as in use on disk."""
        self.bitmaps.check_names(taken)
        return await self.bitmaps.load_bitmaps(writable=self.image.file.writable)

    async def store_bitmaps(self, bitmaps: list[DirtyBitmap], *, closing: bool = False) -> None:
        """Write persistent bitmaps to the image; raises ``QmpError``."""
        await self.bitmaps.store(bitmaps, closing=closing)

    async def can_store_bitmap(self, name: str, granularity: int) -> None:
        """Raise ``QmpError`` unless a new persistent bitmap can be kept in the image."""
        self.bitmaps.check_new(name, granularity, self.context.node_name)

    async def remove_persistent_bitmap(self, name: str) -> None:
        """Remove a bitmap from the image; one that is not there is no error."""
        await self.bitmaps.remove(name)
