"""Who uses which cluster: allocation and reference counts.

Invariants:

* A count is raised in memory when a cluster is taken. What refers to the cluster is written later,
  after a barrier, so a crash can leave a count too high (a leak) but never too low.
* A count is lowered in two steps. ``release`` only notes it; ``apply_released`` does it when all
  that referred to the cluster is gone from stable storage. Until then the cluster is not reused.
* So a dirty refcount block may be written at any time.
* All coroutines here run under the image's lock.

A new refcount block is in, or right after, the area that it describes, so that growth of the
file needs no look at distant places.

QEMU's counterpart: ``block/qcow2-refcount.c``.
"""

from __future__ import annotations

import contextlib
import errno
from array import array
from collections.abc import AsyncIterator
from typing import NamedTuple

from blkxact.enums import BlkdebugEvent
from blkxact.errors import os_error

from . import refcount_widths as widths
from .layout import MAX_CLUSTER_OFFSET
from .metadata_file import MetadataFile
from .metadata_guard import REFCOUNT_BLOCK, MetadataGuard
from .refcount_blocks import RefcountBlock, RefcountBlocks
from .refcount_table import move_table


class Allocation(NamedTuple):
    """A run of clusters that was taken."""

    first: int
    clusters: int
    fresh: bool
    """It is after everything that was ever written, so it reads as zeroes."""


class Released(NamedTuple):
    """A run of clusters of which a reference is to be dropped."""

    first: int
    clusters: int
    discard: bool


class Refcounts:
    """The reference counts of one image, and the search for free clusters."""

    def __init__(self, file: MetadataFile) -> None:
        self.file = file
        self.blocks = RefcountBlocks(file)
        self.order = self.blocks.order
        self.cluster_bits = self.blocks.cluster_bits
        self.per_block = self.blocks.per_block
        self.guard = MetadataGuard(self.cluster_bits)
        self.released: list[Released] = []
        self.released_clusters = 0
        self.end = 0
        """Every cluster from here on was never written."""
        self.next_free = 0
        """Every cluster before is in use."""
        self.free_byte = 0
        """Where bytes of compressed clusters may follow (``packing``); 0: in a new cluster."""

    async def load(self) -> None:
        """Read the refcount table; the header was validated."""
        await self.blocks.load_table()
        self.look_at_length()

    def look_at_length(self) -> None:
        """Learn that the file may be longer than it was."""
        self.end = max(self.end, -(-self.file.child.length >> self.cluster_bits))

    # Counts

    async def get(self, cluster: int) -> int:
        """Return the reference count of a cluster."""
        index, at = divmod(cluster, self.per_block)
        return (await self.blocks.get(index)).counts[at] if self.blocks.has(index) else 0

    async def all_used(self, first: int, end: int) -> bool:
        """Return whether every cluster of ``[first, end)`` has a reference."""
        for cluster in range(first, end):
            if not await self.get(cluster):
                return False
        return True

    async def set(self, cluster: int, count: int) -> None:
        """Set one count, as a repair does."""
        index, at = divmod(cluster, self.per_block)
        while not self.blocks.has(index):
            await self._create_block(index, self.end)
        block = await self.blocks.get(index)
        block.counts[at] = count
        block.touch(at, at + 1)

    async def change(self, first: int, count: int, delta: int) -> list[tuple[int, int]]:
        """Add ``delta`` to the counts of a run; return the runs that became free.

        Raises ``OSError(EINVAL)`` when a count cannot hold the sum. A count of zero stays zero when
        lowered: the image had lost it before, and a leak is all that can come of it.
        """
        freed: list[tuple[int, int]] = []
        for index, start, end in self._split(first, count):
            while delta > 0 and not self.blocks.has(index):
                await self._create_block(index, self.end)
            if self.blocks.has(index):
                block = await self.blocks.get(index)
                base = index * self.per_block
                parts = self._change_in_block(block, start, end, delta)
                freed += [(base + at, number) for at, number in parts]
        for run_first, number in freed:
            self.next_free = min(self.next_free, run_first)
            self.guard.forget(run_first, number)
            if 0 <= (self.free_byte >> self.cluster_bits) - run_first < number:
                self.free_byte = 0
        return freed

    def _change_in_block(
        self, block: RefcountBlock, start: int, end: int, delta: int
    ) -> list[tuple[int, int]]:
        """Add ``delta`` to counts of one block, all or none; return the runs that became free."""
        old = block.counts[start:end]
        if delta == -1 and old == widths.same_counts(self.order, 1, end - start):
            block.counts[start:end] = widths.zero_counts(self.order, end - start)
            block.touch(start, end)
            return [(start, end - start)]
        values = [max(value + delta, 0) for value in old]
        if max(values) > widths.maximum(self.order):
            raise os_error(errno.EINVAL)
        block.counts[start:end] = array(old.typecode, values)
        block.touch(start, end)
        return [(start + at, 1) for at, value in enumerate(values) if value == 0 and old[at] != 0]

    async def trim(self) -> int:
        """Drop the blocks at the end that describe nothing but themselves; return the last cluster.

        That is the last one in use. The dropped blocks' clusters are free with them.
        """
        for index in reversed(range(len(self.blocks.table))):
            if not self.blocks.has(index):
                continue
            block = await self.blocks.get(index)
            used = len(block.counts.tobytes().rstrip(b"\0"))
            if not used:
                continue
            last = index * self.per_block + (used - 1) // block.counts.itemsize
            own = block.offset >> self.cluster_bits
            alone = last == own and not any(block.counts[: own - index * self.per_block])
            if not alone:
                return last
            self.blocks.drop(index)
            self.guard.forget(own, 1)
            self.next_free = min(self.next_free, own)
        return 0

    def _split(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """Cut a run at the borders of blocks: ``(block, start, end)`` within the block."""
        parts = []
        end = first + count
        while first < end:
            index, start = divmod(first, self.per_block)
            stop = min(self.per_block, start + end - first)
            parts.append((index, start, stop))
            first += stop - start
        return parts

    # Taking clusters

    async def allocate(self, count: int) -> list[Allocation]:
        """Take ``count`` clusters wherever they are free, in runs as long as can be."""
        await self.file.event(BlkdebugEvent.CLUSTER_ALLOC)
        at_once = self._take_next(count)
        if at_once is not None:
            return [at_once]
        runs: list[Allocation] = []
        try:
            while count:
                first, number = await self._free_run(self.next_free, count)
                index, at = divmod(first, self.per_block)
                number = min(number, self.per_block - at)
                if not self.blocks.has(index):
                    await self._create_block(index, first)
                    continue
                runs.append(await self._take(first, number))
                self.next_free = first + number
                count -= number
        except BaseException:
            for run in runs:
                await self.unallocate(run.first, run.clusters)
            raise
        return _joined(runs)

    def _take_next(self, count: int) -> Allocation | None:
        """Take the clusters at ``next_free`` if that needs no search: they mostly are free."""
        first = self.next_free
        index, at = divmod(first, self.per_block)
        block = self.blocks.cached(index)
        end = at + count
        if block is None or end > self.per_block or any(block.counts[at:end]):
            return None
        if self.guard.overlap(first, first + count) is not None:
            return None  # the slow path reports it
        return self._set_taken(block, first, at, count)

    def _set_taken(self, block: RefcountBlock, first: int, at: int, count: int) -> Allocation:
        block.counts[at : at + count] = widths.same_counts(self.order, 1, count)
        block.touch(at, at + count)
        fresh = first >= self.end
        self.end = max(self.end, first + count)
        self.next_free = first + count
        return Allocation(first, count, fresh)

    async def allocate_contiguous(self, count: int, use: str | None = None) -> Allocation:
        """Take ``count`` clusters in a row; ``use`` names what they will hold, if metadata."""
        await self.file.event(BlkdebugEvent.CLUSTER_ALLOC)
        start = self.next_free
        while True:
            first, number = await self._free_run(start, count)
            if number < count:
                start = first + number
                continue
            parts = self._split(first, count)
            missing = next((i for i, _, _ in parts if not self.blocks.has(i)), None)
            if missing is None:
                break
            await self._create_block(missing, first + count)
        taken = await self._take(first, count)
        if start == self.next_free:  # no smaller hole was passed by
            self.next_free = first + count
        if use is not None:
            self.guard.add(use, first, count)
        return taken

    async def _take(self, first: int, count: int) -> Allocation:
        """Set the counts of free clusters, whose blocks exist, to one."""
        end = first + count
        if end << self.cluster_bits > MAX_CLUSTER_OFFSET:
            raise os_error(errno.EFBIG)
        await self.check_overlap(first, end)
        for index, start, stop in self._split(first, count):
            block = await self.blocks.get(index)
            block.counts[start:stop] = widths.same_counts(self.order, 1, stop - start)
            block.touch(start, stop)
        fresh = first >= self.end
        self.end = max(self.end, end)
        return Allocation(first, count, fresh)

    async def check_overlap(self, first: int, end: int) -> None:
        """Raise ``OSError(EIO)``, and mark the image, if metadata lies in ``[first, end)``."""
        await self.guard.check(self.file, first, end)

    async def unallocate(self, first: int, count: int) -> None:
        """Give back clusters that nothing on disk refers to."""
        await self.change(first, count, -1)

    @contextlib.asynccontextmanager
    async def given_back_on_failure(self, *taken: Allocation) -> AsyncIterator[None]:
        """Free the clusters again if the block is left by an exception."""
        try:
            yield
        except BaseException:
            for run in taken:
                await self.unallocate(run.first, run.clusters)
            raise

    async def _free_run(self, start: int, limit: int) -> tuple[int, int]:
        """Return the first free run from ``start`` on and its length, at most ``limit``."""
        first, found = start, 0
        cluster = start
        while found < limit:
            index, at = divmod(cluster, self.per_block)
            if index >= len(self.blocks.table):  # nothing but free clusters from here on
                return first, limit
            if not self.blocks.has(index):
                number = min(self.per_block - at, limit - found)
                found += number
                cluster += number
                continue
            counts = (await self.blocks.get(index)).counts
            if found == 0:
                at = widths.find_zero(counts, at)
                first = cluster = index * self.per_block + at
                if at == self.per_block:
                    continue
            number = widths.zero_run(counts, at, limit - found)
            found += number
            cluster += number
            if at + number < self.per_block:
                break
        return first, found

    async def _create_block(self, index: int, near: int) -> None:
        """Make a block for the area ``index``, in a free cluster at ``near`` or after it.

        Where that cluster has no block itself, that one is made instead: the caller looks again.
        """
        await self.file.event(BlkdebugEvent.REFBLOCK_ALLOC)
        cluster, _ = await self._free_run(near, 1)
        home, at = divmod(cluster, self.per_block)
        if max(index, home) >= len(self.blocks.table):
            self.end = max(self.end, await self._move_table(max(index, home), near))
            return
        if home != index and not self.blocks.has(home):
            await self._create_block(home, cluster + 1)
            return
        await self.check_overlap(cluster, cluster + 1)
        block = self.blocks.new(cluster << self.cluster_bits)
        target = block if home == index else await self.blocks.get(home)
        target.counts[at] = 1
        target.touch(at, at + 1)
        await self.blocks.add(index, block)
        self.guard.add(REFCOUNT_BLOCK, cluster)
        self.end = max(self.end, cluster + 1)

    async def _move_table(self, index: int, near: int) -> int:
        return await move_table(self.blocks, self.guard, self.release, index, near)

    # Dropping references

    def release(self, first: int, count: int = 1, *, discard: bool = False) -> None:
        """Drop one reference to each cluster of a run, once nothing on disk has it any more."""
        if not count:
            return
        self.released_clusters += count
        if self.released:
            last = self.released[-1]
            if last.discard == discard and last.first + last.clusters == first:
                self.released[-1] = Released(last.first, last.clusters + count, discard)
                return
        self.released.append(Released(first, count, discard))

    async def apply_released(self) -> None:
        """Lower the counts of what was released; a barrier came before.

        What is done is taken from the list at once, so a failure in between repeats nothing.
        """
        while self.released:
            await self.file.event(BlkdebugEvent.CLUSTER_FREE)
            run = self.released[-1]
            index, start, end = self._split(run.first, run.clusters)[-1]
            first, count = index * self.per_block + start, end - start
            freed = await self.change(first, count, -1)
            self.released.pop()
            if count < run.clusters:
                self.released.append(Released(run.first, run.clusters - count, run.discard))
            self.released_clusters -= count
            if run.discard:
                await self._discard(freed)

    async def _discard(self, runs: list[tuple[int, int]]) -> None:
        for first, count in runs:
            # A hint: an error changes nothing for the image.
            with contextlib.suppress(OSError):
                await self.file.child.pdiscard(
                    first << self.cluster_bits, count << self.cluster_bits
                )

    # Writing back

    async def write_dirty(self) -> None:
        """Write the counts that have changed."""
        await self.blocks.write_dirty()

    @property
    def is_dirty(self) -> bool:
        """Whether something must be written."""
        return bool(self.released) or self.blocks.is_dirty


def _joined(runs: list[Allocation]) -> list[Allocation]:
    """Join runs that follow one another."""
    joined = runs[:1]
    for run in runs[1:]:
        last = joined[-1]
        if last.first + last.clusters == run.first and last.fresh == run.fresh:
            joined[-1] = Allocation(last.first, last.clusters + run.clusters, last.fresh)
        else:
            joined.append(run)
    return joined
