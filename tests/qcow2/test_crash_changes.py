"""A power loss at each moment of a life with resizes, snapshots, bitmaps and batched writes.

After each: the image opens and is sound; each cluster holds the last flushed value or one written
since; and a persistent bitmap is in use (stale, and known to be) or knows all that was written.
"""

import random
from dataclasses import dataclass, field

import pytest

from blkxact.bitmap import DirtyBitmap
from blkxact.drivers.qcow2.check import check_image
from blkxact.testing.memory_file import MemoryStorage

from .helpers import close_qcow2, create_qcow2, open_qcow2

PATH = "disk.qcow2"
BLOCK = 4096
LEAST, MOST = 24, 64
"""Blocks of the disk."""


@dataclass
class Moment:
    """What may be found after a crash until ``events`` events have happened."""

    events: int
    sizes: set[int]
    values: list[set[int]]


@dataclass
class Life:
    """A disk in blocks, each filled with one byte; 0 is what a fresh disk holds."""

    storage: MemoryStorage
    random: random.Random
    cluster_size: int
    size: int = LEAST
    now: list[int] = field(default_factory=lambda: [0] * MOST)
    may: list[set[int]] = field(default_factory=lambda: [{0} for _ in range(MOST)])
    snapshots: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    stamp: int = 0

    def change(self, values: dict[int, int], size: int | None = None) -> None:
        """Note what a step is about to do."""
        for block, value in values.items():
            self.now[block] = value
            self.may[block].add(value)
        sizes = {self.size, self.size if size is None else size}
        self.moments.append(Moment(0, sizes, [set(may) for may in self.may]))
        self.size = self.size if size is None else size

    def done(self) -> None:
        """Note that the step is over."""
        self.moments[-1].events = len(self.storage.journal.events)

    def flushed(self) -> None:
        self.may = [{value} for value in self.now]

    async def open(self) -> None:
        self.driver = await open_qcow2(self.storage, PATH, discard=True)
        self.bitmaps = {bitmap.name: bitmap for bitmap in await self.driver.load_bitmaps()}

    def record(self, first: int, count: int) -> None:
        for bitmap in self.bitmaps.values():
            bitmap.record_write(first * BLOCK, count * BLOCK)

    # Steps

    async def write(self) -> None:
        first = self.random.randrange(self.size)
        count = self.random.randrange(1, min(9, self.size - first + 1))
        self.stamp = self.stamp % 250 + 1
        self.change(dict.fromkeys(range(first, first + count), self.stamp))
        await self.driver.pwrite(first * BLOCK, bytes([self.stamp]) * count * BLOCK)
        self.record(first, count)

    async def write_runs(self) -> None:
        """Write as a backup does: whole clusters here and there in one request."""
        per_cluster = max(1, self.cluster_size // BLOCK)
        clusters = self.random.sample(range(self.size // per_cluster), 3)
        self.stamp = self.stamp % 250 + 1
        blocks = [n * per_cluster + at for n in sorted(clusters) for at in range(per_cluster)]
        self.change(dict.fromkeys(blocks, self.stamp))
        data = bytes([self.stamp]) * per_cluster * BLOCK
        runs = [(n * per_cluster * BLOCK, data) for n in sorted(clusters)]
        await self.driver.pwrite_runs(runs)
        for number in clusters:
            self.record(number * per_cluster, per_cluster)

    async def discard(self) -> None:
        per_cluster = max(1, self.cluster_size // BLOCK)
        first = self.random.randrange(self.size // per_cluster) * per_cluster
        self.change(dict.fromkeys(range(first, first + per_cluster), 0))
        await self.driver.pdiscard(first * BLOCK, per_cluster * BLOCK)
        self.record(first, per_cluster)

    async def flush(self) -> None:
        self.change({})
        await self.driver.flush()
        self.flushed()

    async def resize(self) -> None:
        size = self.random.randrange(LEAST, MOST + 1)
        self.change(dict.fromkeys(range(size, MOST), 0), size)
        await self.driver.truncate(size * BLOCK)
        for bitmap in self.bitmaps.values():
            bitmap.resize(size * BLOCK)
        for may in self.may[size:]:
            may.intersection_update({0})

    async def snapshot(self) -> None:
        self.stamp += 1
        name = f"s{self.stamp}-{len(self.moments)}"
        self.change({})
        await self.driver.internal_snapshots.create(name, date_us=0)
        self.snapshots[name] = self.size, list(self.now)

    async def apply(self) -> None:
        """Go back to a snapshot; its disk is another, so all of it counts as written."""
        if not self.snapshots:
            return
        name = self.random.choice(list(self.snapshots))
        size, values = self.snapshots[name]
        self.change(dict(enumerate(values)), size)
        await self.driver.internal_snapshots.apply(self._entry(name))
        for bitmap in self.bitmaps.values():
            bitmap.resize(size * BLOCK)
        self.record(0, size)
        await self.driver.flush()
        self.flushed()

    async def delete_snapshot(self) -> None:
        if not self.snapshots:
            return
        name = self.random.choice(list(self.snapshots))
        del self.snapshots[name]
        self.change({})
        await self.driver.internal_snapshots.delete(self._entry(name))

    async def reopen(self) -> None:
        """Store the bitmaps, close, and open again."""
        self.change({})
        await self.driver.store_bitmaps(list(self.bitmaps.values()))
        await close_qcow2(self.driver)
        await self.open()

    async def remove_bitmap(self) -> None:
        self.change({})
        name = self.random.choice(["kept", "other"])
        if self.bitmaps.pop(name, None) is not None:
            await self.driver.remove_persistent_bitmap(name)

    def _entry(self, name):
        return next(e for e in self.driver.internal_snapshots.entries if e.name == name)

    async def run(self, steps: int) -> None:
        await self.open()
        for name, granularity in (("kept", BLOCK), ("other", 65536)):
            self.bitmaps[name] = bitmap = DirtyBitmap(self.size * BLOCK, granularity, name)
            bitmap.persistent = True
        kinds = [self.write] * 5 + [self.write_runs, self.discard, self.flush] * 2
        kinds += [self.resize, self.snapshot, self.apply, self.delete_snapshot, self.reopen]
        for number in range(steps):
            step = self.remove_bitmap if number == steps - 5 else self.random.choice(kinds)
            before = len(self.moments)
            await step()
            if len(self.moments) > before:
                self.done()
        await self.reopen()
        await close_qcow2(self.driver)
        self.done()


async def look(life: Life, crashed: MemoryStorage, moment: Moment) -> bool:
    """Check what a crash has left; return whether a bitmap there claims to know the truth."""
    driver = await open_qcow2(crashed, PATH, read_only=True)
    found = await check_image(driver.image)
    clean = not driver.dirty_flag
    if clean:
        assert found.corruptions == found.check_errors == 0, found.messages
    await close_qcow2(driver)
    driver = await open_qcow2(crashed, PATH)  # whoever writes repairs it where it is marked
    found = await check_image(driver.image)
    assert found.corruptions == found.check_errors == 0, found.messages
    size = driver.length // BLOCK
    assert size in moment.sizes
    blocks = []
    for number in range(size):
        data = bytes(await driver.pread(number * BLOCK, BLOCK))
        values = set(data)  # a torn write leaves some of both
        assert values <= moment.values[number], (number, values, moment.values[number])
        blocks.append(values)
    known = False
    for bitmap in await driver.load_bitmaps():
        if bitmap.inconsistent:
            continue
        known = True
        assert bitmap.size == size * BLOCK
        for number, values in enumerate(blocks):
            assert values == {0} or bitmap.get(number * BLOCK), f"{bitmap.name} lost {number}"
    await driver.pwrite(0, b"after")
    await close_qcow2(driver)
    return known


@pytest.mark.parametrize(("cluster_size", "refcount_bits"), [(512, 16), (4096, 64), (16384, 16)])
async def test_crash_in_a_life_with_everything_leaves_data_snapshots_and_bitmaps_true(
    seeded, cluster_size, refcount_bits
):
    storage = MemoryStorage(random.Random(seeded.random()), history=True)
    await create_qcow2(
        storage, PATH, LEAST * BLOCK, cluster_size=cluster_size, refcount_bits=refcount_bits
    )
    storage.checkpoint()
    life = Life(storage, seeded, cluster_size)
    await life.run(60)
    moments = iter(life.moments)
    moment = next(moments)
    known = 0
    for number, crashed in enumerate(storage.crashes(seeded)):
        while number > moment.events:
            moment = next(moments)
        known += await look(life, crashed, moment)
    assert number > 200
    assert known, "no bitmap was ever there to be wrong"
