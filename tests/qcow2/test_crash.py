"""Whenever the power goes: the image opens, flushed data is there, and nothing but leaks is found.

Several writers share clusters, each has sectors of its own. A sector holds the number of the write
that filled it, so what is read after a crash tells when it was written.
"""

import asyncio
import random
import struct
from contextlib import asynccontextmanager

import pytest

from blkxact.block.types import WriteFlags
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.testing.loop import run_simulated
from blkxact.testing.memory_file import MemoryStorage

from .helpers import close_qcow2, create_qcow2, open_qcow2

SECTOR = 512
PATH = "disk.qcow2"
BASE = "base.raw"
DATA = "data.raw"


def sector_of(stamp):
    return struct.pack("<q", stamp) * (SECTOR // 8)


class Disk:
    """What each sector may hold after a crash: the last flushed value, or one written since."""

    def __init__(self, sectors, first):
        self.values = [[(0, first(n))] for n in range(sectors)]
        self.complete = [0] * sectors
        self.stamp = 0

    def begin(self, sectors, *, zero=False):
        """Note a write to sectors; return its bytes."""
        self.stamp += 1
        content = sector_of(0 if zero else self.stamp)
        for n in sectors:
            self.values[n].append((self.stamp, content))
        return content * len(sectors)

    def end(self, sectors):
        for n in sectors:
            self.complete[n] = self.values[n][-1][0]

    def flushed(self, complete):
        """What was complete when the flush began is sure now."""
        for n, stamp in enumerate(complete):
            self.values[n] = [value for value in self.values[n] if value[0] >= stamp]

    def check(self, content):
        for n, values in enumerate(self.values):
            sector = content[n * SECTOR : (n + 1) * SECTOR]
            if sector not in [value for _, value in values]:
                found = struct.unpack_from("<q", sector)
                known = [stamp for stamp, _ in values]
                pytest.fail(f"sector {n} holds {found}, which is none of {known}")


class Workload:
    """Writers on one image, and a power that fails again and again."""

    def __init__(self, storage, seed, disk, *, backed, compress=0.2, data_file=None):
        self.storage = storage
        self.random = random.Random(seed)
        self.disk = disk
        self.backed = backed
        self.compress = 0 if data_file else compress
        self.data_file = data_file

    @asynccontextmanager
    async def opened(self, storage, **options):
        backing = None
        if self.backed:
            backing = StorageChild(await storage.open(BASE, read_only=True))
        driver = await open_qcow2(
            storage, PATH, backing=backing, data_file=self.data_file, **options
        )
        try:
            yield driver
        finally:
            await close_qcow2(driver)
            if backing:
                await backing.file.close()

    def write_all(self, steps):
        half, quarter = len(self.disk.values) // 2, len(self.disk.values) // 4
        chunks = [range(n, n + 3) for n in range(0, half - 3, 3)]
        small = [self.write_chunks(chunks[number::3], steps) for number in range(3)]
        return asyncio.gather(
            *small,
            self.write_long(half, half + quarter, steps),
            self.write_scattered(half + quarter, steps),
        )

    async def run(self, *, steps):
        async with self.opened(self.storage, discard=True) as self.driver:
            jobs = self.write_all(steps)
            while not jobs.done():
                await asyncio.sleep(self.random.random() * 0.1)
                await self.check(self.storage.crash(self.random))
                if self.random.random() < 0.2:
                    await self.check(self.storage.killed())
            await jobs
        self.disk.flushed(self.disk.complete)
        await self.check(self.storage.crash(self.random))

    async def write_chunks(self, chunks, steps):
        for _ in range(steps):
            kind = self.random.random()
            if kind < 0.15:
                await self.flush()
            else:
                await self.change(self.random.choice(chunks), zero=kind < 0.35)

    async def write_scattered(self, first, steps):
        """Whole clusters here and there, in one request; nobody else writes there."""
        per_cluster = self.driver.cluster_size // SECTOR
        clusters = range(-(-first // per_cluster), len(self.disk.values) // per_cluster)
        for _ in range(steps if len(clusters) > 4 else 0):
            chosen = sorted(self.random.sample(clusters, self.random.randrange(1, 4)))
            parts = [range(n * per_cluster, (n + 1) * per_cluster) for n in chosen]
            is_compressed = self.random.random() < self.compress
            is_compressed = is_compressed and self.driver.image.header.version == 3
            if is_compressed:  # it replaces nothing
                for part in parts:
                    self.disk.begin(part, zero=True)
                    await self.driver.pwrite_zeroes(
                        part.start * SECTOR, len(part) * SECTOR, WriteFlags.MAY_UNMAP
                    )
                    self.disk.end(part)
            runs = [(part.start * SECTOR, self.disk.begin(part)) for part in parts]
            if is_compressed:
                writes = [self.driver.pwrite(*run, WriteFlags.COMPRESSED) for run in runs]
                await asyncio.gather(*writes)
            else:
                await self.driver.pwrite_runs(runs)
            for part in parts:
                self.disk.end(part)
            if self.random.random() < 0.3:
                await self.flush()

    async def write_long(self, first, sectors, steps):
        for _ in range(steps):
            kind = self.random.random()
            start = self.random.randrange(first, sectors)
            chunk = range(start, min(sectors, start + self.random.randrange(1, 200)))
            if kind < 0.1:
                await self.flush()
            else:
                await self.change(chunk, zero=kind < 0.4)

    async def change(self, sectors, *, zero):
        offset, length = sectors.start * SECTOR, len(sectors) * SECTOR
        data = self.disk.begin(sectors, zero=zero)
        if zero:
            flags = self.random.choice([WriteFlags.NONE, WriteFlags.MAY_UNMAP])
            await self.driver.pwrite_zeroes(offset, length, flags)
        else:
            await self.driver.pwrite(offset, data)
        self.disk.end(sectors)

    async def flush(self):
        complete = list(self.disk.complete)
        await self.driver.flush()
        self.disk.flushed(complete)

    async def check(self, storage):
        """The image is sound, holds what it must, and stays sound when it is written."""
        storage.latency = None
        await self.check_structure(storage)
        async with self.opened(storage) as driver:
            self.disk.check(bytes(await driver.pread(0, driver.length)))
            await driver.pwrite(self.random.randrange(driver.length - 5), b"after")
        await self.check_structure(storage)

    async def check_structure(self, storage):
        async with self.opened(storage, read_only=True) as driver:
            found = await check_image(driver.image)
            assert found.corruptions == found.check_errors == 0, found.messages


async def make_disk(storage, sectors, *, backed, **options):
    disk = Disk(sectors, lambda n: sector_of(-n - 1 if backed else 0))
    if backed:
        storage.load(BASE, b"".join(values[0][1] for values in disk.values))
    await create_qcow2(storage, PATH, sectors * SECTOR, **options)
    return disk


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize(
    ("cluster_size", "refcount_bits", "version", "extended_l2", "sectors"),
    [(512, 64, 3, False, 4000), (512, 16, 3, False, 1000), (4096, 16, 3, False, 2000),
     (65536, 16, 3, False, 1000), (2048, 1, 3, False, 1000), (1024, 16, 2, False, 1000),
     (16384, 16, 3, True, 2000), (32768, 16, 3, True, 1000)],
)  # fmt: skip
def test_crash_at_any_time_leaves_flushed_data_and_leaks_at_most(
    sim_seed, backed, cluster_size, refcount_bits, version, extended_l2, sectors
):
    async def main():
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01)
        options = {
            "cluster_size": cluster_size,
            "refcount_bits": refcount_bits,
            "version": version,
            "extended_l2": extended_l2,
        }
        disk = await make_disk(storage, sectors, backed=backed, **options)
        await Workload(storage, sim_seed, disk, backed=backed).run(steps=25)
        assert not storage.open_files

    run_simulated(main(), sim_seed)


@pytest.mark.parametrize(
    ("cluster_size", "refcount_bits", "kind"),
    [(512, 16, "zlib"), (4096, 16, "zstd"), (4096, 2, "zlib"), (65536, 64, "zlib")],
)
def test_crash_between_compressed_writes_leaves_flushed_data_and_leaks_at_most(
    sim_seed, cluster_size, refcount_bits, kind
):
    async def main():
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01)
        options = {
            "cluster_size": cluster_size,
            "refcount_bits": refcount_bits,
            "compression_type": kind,
        }
        sectors = min(4000, 64 * cluster_size // SECTOR)
        disk = await make_disk(storage, sectors, backed=True, **options)
        await Workload(storage, sim_seed, disk, backed=True, compress=0.8).run(steps=25)
        assert not storage.open_files

    run_simulated(main(), sim_seed)


@pytest.mark.parametrize("kind", ["raw", "backed", "alone"])
@pytest.mark.parametrize(
    ("cluster_size", "extended_l2"), [(512, False), (4096, False), (65536, False), (16384, True)]
)
def test_crash_with_a_data_file_leaves_flushed_data_and_leaks_at_most(
    sim_seed, cluster_size, extended_l2, kind
):
    async def main():
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01)
        backed = kind == "backed"
        options = {
            "cluster_size": cluster_size,
            "extended_l2": extended_l2,
            "data_file": DATA,
            "data_file_raw": kind == "raw",
        }
        disk = await make_disk(storage, 2000, backed=backed, **options)
        workload = Workload(storage, sim_seed, disk, backed=backed, data_file=DATA)
        await workload.run(steps=25)
        assert not storage.open_files

    run_simulated(main(), sim_seed)


@pytest.mark.parametrize("discard", [False, True])
def test_crash_after_every_single_change_leaves_a_sound_image(sim_seed, discard):
    async def main():
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01, history=True)
        disk = await make_disk(storage, 1500, backed=False, cluster_size=512, refcount_bits=64)
        storage.checkpoint()
        workload = Workload(storage, sim_seed, disk, backed=False)
        async with workload.opened(storage, discard=discard) as workload.driver:
            await workload.write_all(60)
        number = 0
        for crashed in storage.crashes():
            crashed.latency = None
            await workload.check_structure(crashed)
            number += 1
        assert number > 400

    run_simulated(main(), sim_seed)
