"""Small sound images of every kind, and where their metadata lies: what hostile ones begin as."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from blkxact.bitmap import DirtyBitmap
from blkxact.block.graph import Graph
from blkxact.block.open_context import Environment, OpenContext
from blkxact.block.types import ChildRole, WriteFlags
from blkxact.drivers.driver_options import PlainOptions
from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.data_file import NAME as DATA_FILE
from blkxact.drivers.qcow2.driver import Qcow2Driver
from blkxact.drivers.qcow2.image import read_header
from blkxact.drivers.qcow2.layout import COMPRESSED, OFFSET_MASK, REFCOUNT_OFFSET_MASK
from blkxact.drivers.qcow2.layout_tables import BITMAP_ENTRY_OFFSET
from blkxact.drivers.qcow2.snapshots import Qcow2Snapshots
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.throttle.group import ThrottleGroups
from blkxact.storage.network import SystemNetwork
from blkxact.testing.memory_file import MemoryStorage

PATH = "disk.qcow2"
DATA_PATH = "disk.data"
DATA_BYTES = 512 << 10
"""Length of the external data file, which images with one lead into."""

KINDS = {
    "small": CreateOptions(64 << 10, cluster_size=512),
    "version 2": CreateOptions(
        256 << 10, cluster_size=4096, version=2, backing_file="base", backing_format="raw"
    ),
    "default": CreateOptions(1 << 20),
    "snapshots": CreateOptions(64 << 10, cluster_size=512),
    "bitmaps": CreateOptions(256 << 10, cluster_size=4096),
    "small bitmaps": CreateOptions(1 << 20, cluster_size=512),
    "compressed": CreateOptions(64 << 10, cluster_size=4096),
    "narrow counts": CreateOptions(64 << 10, cluster_size=512, refcount_bits=1),
    "wide counts": CreateOptions(64 << 10, cluster_size=1024, refcount_bits=64),
    "subclusters": CreateOptions(512 << 10, cluster_size=16384, extended_l2=True),
    "subclusters, snapshots": CreateOptions(512 << 10, cluster_size=16384, extended_l2=True),
    "packed": CreateOptions(256 << 10, cluster_size=4096),
    "data file": CreateOptions(256 << 10, cluster_size=4096, data_file=DATA_PATH),
    "raw data file": CreateOptions(
        256 << 10, cluster_size=4096, data_file=DATA_PATH, data_file_raw=True
    ),
    "subclusters, data file, bitmaps": CreateOptions(
        512 << 10, cluster_size=16384, extended_l2=True, data_file=DATA_PATH
    ),
}


@dataclass(frozen=True)
class Seed:
    """An image and the places in it that decide something, by room of the format."""

    name: str
    data: bytes
    header: tuple[int, ...]
    tables: tuple[int, ...]
    snapshots: tuple[int, ...]
    bitmaps: tuple[int, ...]
    compressed: tuple[int, ...]

    def places(self, room: str) -> tuple[int, ...]:
        """Return the offsets of a room; those of all rooms if it has none here."""
        everything = self.header + self.tables + self.snapshots + self.bitmaps + self.compressed
        return getattr(self, room, ()) or everything


@cache
def seeds() -> tuple[Seed, ...]:
    """Return all seeds; the same bytes in every run."""
    return tuple(asyncio.run(_make(name, options)) for name, options in KINDS.items())


class Edge(StorageChild):
    """A file with a role, as an edge of the graph has."""

    role = ChildRole.IMAGE


async def children_of(child: StorageChild, data: StorageChild) -> dict[str, StorageChild]:
    """Return what an image in ``child`` is made of: ``data`` too, if its header wants that."""
    with contextlib.suppress(QmpError):
        header, _ = await read_header(child)
        if header.has_data_file:
            return {"file": child, DATA_FILE: data}
    return {"file": child}


async def open_driver(
    storage: MemoryStorage, child: StorageChild, data: StorageChild, *, read_only: bool = False
) -> Qcow2Driver:
    """Open the image in ``child``; raises ``QmpError``."""
    clock, rng = SystemClock(), random.Random(0)
    env = Environment(Graph(rng), storage, clock, rng, ThrottleGroups(clock), SystemNetwork(clock))
    context = OpenContext(env, "node", read_only=read_only, discard=True)
    children: Any = await children_of(child, data)  # in the place of an edge of a graph
    options: Any = PlainOptions({})
    return await Qcow2Driver.open(context, options, children)


async def _make(name: str, options: CreateOptions) -> Seed:
    storage = MemoryStorage()
    child = Edge(await storage.create(PATH))
    data_child = StorageChild(await storage.create(DATA_PATH))
    await data_child.truncate(DATA_BYTES)
    await create(child, options, data_child if options.data_file else None)
    driver = await open_driver(storage, child, data_child)
    size = driver.cluster_size or 512
    await driver.pwrite(0, b"\1" * size)
    await driver.pwrite(driver.length // 2, b"\2" * 3 * size)
    if options.version == 3:
        await driver.pwrite_zeroes(4 * size, size)
    if name == "packed":
        for at in (1, 2, 7):
            data = bytes(range(256)) * (size // 256)
            await driver.pwrite(at * size, data, WriteFlags.COMPRESSED)
    if "snapshots" in name:
        for number in (1, 2):
            await Qcow2Snapshots(driver.image, lambda: None).create(f"s{number}", date_us=number)
            await driver.pwrite(size, bytes([number]) * size)
    if "bitmaps" in name:
        await driver.load_bitmaps()
        await driver.store_bitmaps([_bitmap(driver, "b0", 512), _bitmap(driver, "b1", 65536)])
    if "compressed" in name:
        await _compress_first_cluster(driver)
    await driver.close()
    data = bytes(await child.pread(0, child.length))
    driver = await open_driver(storage, child, data_child, read_only=True)
    return Seed(name, data, *await _rooms(driver))


def _bitmap(driver: Qcow2Driver, name: str, granularity: int) -> DirtyBitmap:
    bitmap = DirtyBitmap(driver.length, granularity, name)
    bitmap.persistent = True
    bitmap.record_write(0, 3 * granularity)
    bitmap.enabled = name == "b0"
    return bitmap


async def _compress_first_cluster(driver: Qcow2Driver) -> None:
    """Let the first cluster be a compressed one, at the place that it has."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = packer.compress(b"\1" * driver.image.cluster_size) + packer.flush()
    await driver.flush()
    table = driver.map.l1[0] & OFFSET_MASK
    entry = (await driver.image.file.read_table(table, 1))[0] & OFFSET_MASK
    await driver.children["file"].pwrite(entry, packed)
    await driver.children["file"].pwrite(table, (COMPRESSED | entry).to_bytes(8, "big"))
    driver.map.forget_all()


async def _rooms(driver: Qcow2Driver) -> list[tuple[int, ...]]:
    image, header = driver.image, driver.image.header
    tables = [header.l1_table_offset + 8 * at for at in range(header.l1_size)]
    for entry in image.map.l1[:4]:
        if entry & OFFSET_MASK:
            tables += range(entry & OFFSET_MASK, (entry & OFFSET_MASK) + 64, 8)
    blocks = image.refcounts.blocks.table[:4]
    tables += [header.refcount_table_offset + 8 * at for at in range(len(blocks))]
    for entry in blocks:
        if entry & REFCOUNT_OFFSET_MASK:
            tables += range(entry, entry + 24, 4)
    snapshots = range(header.snapshots_offset, header.snapshots_offset + image.snapshots_bytes, 4)
    l1_tables = [one.l1_table_offset for one in image.snapshots]
    first = [item async for item in _compressed(driver)]
    return [
        (*range(0, 112, 4), *range(112, min(512, header.cluster_size), 4)),
        tuple(tables),
        (*snapshots, *l1_tables),
        tuple([item async for item in _bitmap_places(driver)]),
        tuple(first),
    ]


async def _bitmap_places(driver: Qcow2Driver) -> AsyncIterator[int]:
    place = driver.image.header.bitmaps
    if place is None:
        return
    for at in range(place.directory_offset, place.directory_offset + place.directory_size, 4):
        yield at
    for entry in driver.bitmaps.entries:
        table = await driver.image.file.read_table(entry.table_offset, entry.table_size)
        for at, item in enumerate(table[:4]):
            yield entry.table_offset + 8 * at
            if item & BITMAP_ENTRY_OFFSET:
                yield item & BITMAP_ENTRY_OFFSET


async def _compressed(driver: Qcow2Driver) -> AsyncIterator[int]:
    table = driver.map.l1[0] & OFFSET_MASK
    entry = (await driver.image.file.read_table(table, 1))[0]
    if entry & COMPRESSED:
        host = entry & OFFSET_MASK & ~COMPRESSED
        yield table
        for at in range(host, host + 24):
            yield at
