"""Images written by us and by QEMU in turns: both find what both wrote, and nothing wrong."""

import asyncio
import itertools
import json
import subprocess

import pytest

from blkxact.block.types import Status, WriteFlags
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.layout import OFFSET_MASK
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.storage.api import FileRange

from .helpers import (
    assert_clean,
    assert_content,
    close_qcow2,
    create_qcow2,
    make_storage,
    open_qcow2,
    qemu_check,
    qemu_io,
    run,
)

pytestmark = pytest.mark.qemu

SECTOR = 512


class Round:
    """One image, its model, and both who write it."""

    def __init__(self, path, random, storage):
        self.path = path
        self.random = random
        self.storage = storage
        self.cluster_size = random.choice([512, 1024, 4096, 16384, 65536, 65536, 262144, 2 << 20])
        self.version = random.choice([2, 3, 3])
        widths = [1, 2, 4, 8, 16, 16, 32, 64]
        self.refcount_bits = 16 if self.version == 2 else random.choice(widths)
        self.compression = random.choice(["zlib", "zstd"]) if self.version == 3 else "zlib"
        has_room = self.version == 3 and self.cluster_size >= 16384
        self.extended_l2 = has_room and random.random() < 0.6
        size = random.choice([self.cluster_size * 7 + 512, 1 << 20, (5 << 20) + 512])
        self.size = min(size, self.cluster_size * 4000) // SECTOR * SECTOR
        self.model = bytearray(self.size)
        self.base = None
        self.snapshots = 0

    def __repr__(self):
        return (
            f"cluster_size={self.cluster_size} version={self.version} size={self.size}"
            f" refcount_bits={self.refcount_bits} compression={self.compression} base={self.base}"
            f" extended_l2={self.extended_l2}"
        )

    async def create(self):
        if self.random.random() < 0.4:
            self.base = self.path.with_suffix(".base")
            data = self.random.randbytes(self.random.choice([self.size // 2, self.size, 4096]))
            self.base.write_bytes(data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0"))
            self.model[: len(data)] = data[: self.size]
        if self.random.random() < 0.5:
            backing = {"backing_file": str(self.base), "backing_format": "raw"} if self.base else {}
            await create_qcow2(
                self.storage, self.path, self.size, version=self.version,
                cluster_size=self.cluster_size, refcount_bits=self.refcount_bits,
                compression_type=self.compression, extended_l2=self.extended_l2, **backing,
            )  # fmt: skip
        else:
            compat = "1.1" if self.version == 3 else "0.10"
            options = f"cluster_size={self.cluster_size},compat={compat}"
            options += f",refcount_bits={self.refcount_bits}"
            options += f",compression_type={self.compression}" if self.version == 3 else ""
            options += ",extended_l2=on" if self.extended_l2 else ""
            backing = ["-b", self.base, "-F", "raw"] if self.base else []
            run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *backing,
                self.path, self.size)  # fmt: skip

    async def open(self, **options):
        backing = None
        if self.base:
            backing = StorageChild(await self.storage.open(str(self.base), read_only=True))
        return await open_qcow2(self.storage, self.path, backing=backing, **options)

    def range(self):
        random = self.random
        offset = random.randrange(self.size)
        length = random.randrange(1, random.choice([600, 5000, 100_000, 2 << 20]))
        unit = random.choice([1, 1, SECTOR, self.cluster_size])
        offset -= offset % unit
        return offset, min(self.size - offset, -(-length // unit) * unit)

    def set(self, offset, data):
        self.model[offset : offset + len(data)] = data
        return data

    # Ours

    async def write_ours(self):
        driver = await self.open(discard=self.random.random() < 0.5)
        source = await self.storage.create(str(self.path.with_suffix(".source")))
        self.content = self.random.randbytes(1 << 20)
        await source.pwrite(0, self.content)
        for _ in range(self.random.randrange(1, 30)):
            await self.request(driver, source)
        await self.write_side_by_side(driver)
        await source.close()
        await self.close(driver)

    async def close(self, driver):
        if self.base:
            await driver.image.backing.file.close()
        await close_qcow2(driver)

    async def request(self, driver, source):
        offset, length = self.range()
        kind = self.random.random()
        if kind < 0.15:
            await self.compressed(driver, offset, length)
        elif kind < 0.35:
            await driver.pwrite(offset, self.set(offset, self.random.randbytes(length)))
        elif kind < 0.5:
            length = min(length, len(self.content))
            start = self.random.randrange(len(self.content) - length + 1)
            self.set(offset, self.content[start : start + length])
            await driver.pwrite(offset, FileRange(source, start, length))
        elif kind < 0.65:
            flags = self.random.choice([WriteFlags.NONE, WriteFlags.MAY_UNMAP])
            await driver.pwrite_zeroes(offset, len(self.set(offset, bytes(length))), flags)
        elif kind < 0.75:
            self.discarded(offset, length)
            await driver.pdiscard(offset, length)
        elif kind < 0.8:
            await driver.flush()
        elif kind < 0.9:
            assert bytes(await driver.pread(offset, length)) == self.model[offset : offset + length]
        else:
            await self.check_extents(driver, offset, length)

    async def compressed(self, driver, offset, length):
        start, end = offset - offset % self.cluster_size, offset + length
        end = min(self.size, -(-end // self.cluster_size) * self.cluster_size)
        await driver.block_status(start, end - start)  # brings the map into memory
        entries = (driver.map.entry(at) or 0 for at in range(start, end, self.cluster_size))
        if any(entry & OFFSET_MASK for entry in entries):
            return  # what is there cannot be replaced
        # Some of it cannot be packed, some can.
        data = self.random.randbytes((end - start) // 3).ljust(end - start, b"x")
        await driver.pwrite(start, self.set(start, data), WriteFlags.COMPRESSED)

    def discarded(self, offset, length):
        end = offset + length
        first = -(-offset // self.cluster_size) * self.cluster_size
        last = end if end == self.size else end - end % self.cluster_size
        if first < last and (self.version == 3 or not self.base):
            self.set(first, bytes(last - first))

    async def check_extents(self, driver, offset, length):
        position = offset
        for extent in await driver.block_status(offset, length):
            assert extent.offset == position
            position += extent.length
            expected = self.model[extent.offset : position]
            if extent.status & Status.ZERO:
                assert not any(expected), extent
            elif extent.file is not None:
                assert bytes(await extent.file.pread(extent.file_offset, extent.length)) == expected
        assert position == offset + length

    async def write_side_by_side(self, driver):
        cuts = sorted({self.random.randrange(self.size) for _ in range(12)} | {0, self.size})
        await asyncio.gather(
            *(
                driver.pwrite(start, self.set(start, self.random.randbytes(end - start)))
                for start, end in itertools.pairwise(cuts)
            )
        )

    # Theirs

    def write_theirs(self):
        if self.refcount_bits >= 8 and self.random.random() < 0.5:
            run("qemu-img", "snapshot", "-c", f"s{self.snapshots}", self.path)
            self.snapshots += 1
        commands = []
        for _ in range(self.random.randrange(1, 8)):
            offset, length = self.range()
            offset -= offset % SECTOR
            length = min(max(SECTOR, length // SECTOR * SECTOR), self.size - offset)
            pattern = self.random.randrange(256)
            if self.random.random() < 0.6:
                commands.append(f"write -P {pattern} {offset} {length}")
                self.set(offset, bytes([pattern]) * length)
            elif self.version == 3:
                unmap = self.random.choice(["", "-u "])
                commands.append(f"write -z {unmap}{offset} {length}")
                self.set(offset, bytes(length))
        if commands:
            qemu_io(self.path, *commands)
        self.write_compressed()

    def write_compressed(self):
        clusters = max(1, self.size // self.cluster_size)
        offset = self.random.randrange(clusters) * self.cluster_size
        command = f"write -c -P 77 {offset} {self.cluster_size}"
        done = subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", command, self.path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "wrote" in done.stdout:  # QEMU refuses where a cluster is already
            self.set(offset, b"\x4d" * self.cluster_size)

    # Both

    async def check(self):
        assert_clean(self.path)
        assert_content(self.path, bytes(self.model))
        driver = await self.open(read_only=True)
        assert bytes(await driver.pread(0, self.size)) == self.model
        ours, theirs = await check_image(driver.image), qemu_check(self.path)
        assert (ours.leaks, ours.corruptions, ours.check_errors) == (0, 0, 0), ours.messages
        assert ours.image_end_offset == theirs["image-end-offset"]
        for name in ("total", "allocated", "fragmented", "compressed"):
            expected = theirs.get(f"{name}-clusters", 0)
            assert getattr(ours, f"{name}_clusters") == expected, name
        await self.close(driver)


@pytest.mark.parametrize("number", range(16))
async def test_image_written_in_turns_is_the_same_to_both(image_dir, seeded, number):
    storage = make_storage()
    turn = Round(image_dir / "disk.qcow2", seeded, storage)
    print(turn)
    await turn.create()
    for _ in range(2):
        await turn.write_ours()
        await turn.check()
        turn.write_theirs()
        await turn.check()
    storage.close()


async def test_resized_disks_are_the_same_to_both(image_dir, seeded):
    storage = make_storage()
    path = image_dir / "disk.qcow2"
    await create_qcow2(storage, path, 1 << 20, cluster_size=512)
    data = seeded.randbytes(1 << 20)
    driver = await open_qcow2(storage, path)
    await driver.pwrite(0, data)
    await driver.truncate(300 << 10)
    await close_qcow2(driver)
    assert_clean(path)
    run("qemu-img", "resize", "-q", "-f", "qcow2", path, "8M")
    driver = await open_qcow2(storage, path)
    await driver.truncate(16 << 20, prealloc="metadata")
    await close_qcow2(driver)
    storage.close()
    assert_clean(path)
    assert_content(path, data[: 300 << 10].ljust(16 << 20, b"\0"))


async def test_backing_file_set_by_us_is_found_by_qemu(image_dir):
    storage = make_storage()
    base, path = image_dir / "base.raw", image_dir / "disk.qcow2"
    base.write_bytes(b"\7" * (1 << 20))
    await create_qcow2(storage, path, 1 << 20)
    driver = await open_qcow2(storage, path)
    await driver.set_backing_file("base.raw", "raw")
    assert (driver.backing_file, driver.backing_format) == ("base.raw", "raw")
    await close_qcow2(driver)
    storage.close()
    qemu_io(path, "read -P 7 0 1M")


async def test_image_info_of_the_format_is_qemus(image_dir):
    storage = make_storage()
    for number, options in enumerate(
        [{}, {"version": 2}, {"lazy_refcounts": True, "refcount_bits": 8}, {"extended_l2": True}]
    ):
        path = image_dir / f"disk{number}.qcow2"
        await create_qcow2(storage, path, 1 << 20, **options)
        driver = await open_qcow2(storage, path, read_only=True)
        theirs = json.loads(run("qemu-img", "info", "--output=json", path))
        assert driver.image_specific() == theirs["format-specific"]
        await close_qcow2(driver)
    storage.close()


async def test_zstd_cluster_of_qemu_is_read(image_dir):
    storage = make_storage()
    path = image_dir / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", path, "1M")
    qemu_io(path, "write -c -P 5 64k 64k")
    driver = await open_qcow2(storage, path)
    assert bytes(await driver.pread(60_000, 70_000)) == bytes(5536) + b"\5" * 64464
    await close_qcow2(driver)
    storage.close()
