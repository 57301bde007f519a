"""The requests of the guests: they run beside all else, and enter the model when they return."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

from .bitmaps import actual_bits
from .disks import Disk, ModelNode

if TYPE_CHECKING:
    from .world import World

WRITING = ("write", "zero", "discard")


class Guests:
    """All guests of a world. ``tasks``: their requests under way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: dict[asyncio.Task[None], None] = {}

    def start(self, disk: Disk, kind: str, offset: int, length: int) -> None:
        """Start a request of the guest, unless another of its requests touches the same bytes."""
        end = offset + length
        if any(start < end and offset < stop for start, stop, _ in disk.busy):
            return
        stamp = self.world.number() if kind == "write" else 0
        entry = (offset, end, None if kind in ("read", "flush") else stamp)
        disk.busy.append(entry)
        backend = self.world.layer.find_backend(disk.device)
        request = self._counted(disk, entry, (backend, kind, offset, length, stamp))
        task = self.world.loop.create_task(request, name=f"guest {kind}")
        self.tasks[task] = None
        task.add_done_callback(self.tasks.pop)

    async def _counted(self, disk: Disk, entry: tuple[int, int, int | None], request: Any) -> None:
        try:
            await self._request(disk, *request)
        finally:
            disk.busy.remove(entry)

    async def _request(
        self, disk: Disk, backend: Any, kind: str, offset: int, length: int, stamp: int
    ) -> None:
        try:
            await self._make(disk, backend, kind, offset, length, stamp)
        except OSError as error:
            if self.world.deaf:
                return
            if not (self.world.trouble or self.world.closing):
                error.add_note(f"the guest's {kind} {offset}+{length}")
                raise
            self.world.stats["guest failed"] += 1
            if error.errno == errno.ENOMEDIUM:  # the request came too late
                return
            if kind in WRITING:
                self._wrote_maybe(disk.top, offset, length, stamp)
        else:
            if self.world.deaf:
                return
            self.world.stats[f"guest {kind}"] += 1
            if kind == "discard":  # a filter of a backup may keep it to itself
                self._wrote_maybe(disk.top, offset, length, 0)
            elif kind in ("write", "zero"):
                self._wrote(disk.top, offset, length, stamp)
        finally:
            line = f"guest {disk.device} {kind} {offset}+{length} done, {stamp}"
            self.world.events.log.append(line)

    async def _make(
        self, disk: Disk, backend: Any, kind: str, offset: int, length: int, stamp: int
    ) -> None:
        if kind == "write":
            await backend.pwrite(offset, stamp.to_bytes(4, "big") * (length // 4))
        elif kind == "zero":
            await backend.pwrite_zeroes(offset, length)
        elif kind == "discard":
            await backend.pdiscard(offset, length)
        elif kind == "read":
            data = bytes(await backend.pread(offset, length))
            wrong = disk.top.contents.differences(data, offset)
            assert self.world.deaf or not wrong, f"{disk.device} reads wrong: {wrong[:8]}"
        else:
            contents = disk.top.contents
            writes = contents.writes
            await backend.flush()
            contents.flushed(writes if not self.world.deaf else 0)

    def _wrote(self, node: ModelNode, offset: int, length: int, stamp: int) -> None:
        node.contents.write(offset, length, stamp)
        for bitmap in node.bitmaps.values():
            bitmap.record(offset, length, surely=True)

    def _wrote_maybe(self, node: ModelNode, offset: int, length: int, stamp: int) -> None:
        """A write failed: where a bitmap did not note it, it must not have changed anything."""
        noted = True
        for bitmap in node.bitmaps.values():
            actual = self.world.layer.graph.nodes[node.name].bitmaps[bitmap.name]
            bits = actual_bits(actual.successor or actual)
            if (bitmap.frozen or bitmap).enabled and bitmap.mask(offset, length) & ~bits:
                noted = False
        for bitmap in node.bitmaps.values():
            bitmap.record(offset, length, surely=False)
        if noted:
            node.contents.write_maybe(offset, length, stamp)
