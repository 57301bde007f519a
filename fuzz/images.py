"""What must hold for every image, whoever made it.

* Opening, reading, mapping, checking and closing work, or fail with ``QmpError`` or ``OSError``.
* Nothing is written by a read-only opening, or by one that is refused.
* The bytes read, and so the time and memory taken, have limits with names.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator

from blkxact.block.types import Extent, WriteFlags
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.driver import Qcow2Driver
from blkxact.drivers.qcow2.image import open_image
from blkxact.drivers.qcow2.layout import (
    MAX_BITMAP_DIRECTORY_BYTES,
    MAX_L1_BYTES,
    MAX_REFCOUNT_TABLE_BYTES,
)
from blkxact.drivers.qcow2.layout_tables import MAX_SNAPSHOT_TABLE_BYTES
from blkxact.drivers.qcow2.snapshots import Qcow2Snapshots
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.storage.api import Buffer, Payload, Runs
from blkxact.testing.memory_file import MemoryStorage

from .seeds import DATA_BYTES, DATA_PATH, PATH, Edge, children_of, open_driver

MAX_OPEN_BYTES = (
    MAX_L1_BYTES + MAX_REFCOUNT_TABLE_BYTES + MAX_SNAPSHOT_TABLE_BYTES + MAX_BITMAP_DIRECTORY_BYTES
)
"""Bytes that an opening may read at the most: the longest tables that a header may name."""
MAX_STEP_BYTES = 2 * MAX_OPEN_BYTES
"""Bytes that one step may read from one of the small files here."""
MAX_STEP_REQUESTS = 200_000
"""Requests of one step."""
MAX_FILE_BYTES = 1 << 34
"""The longest file that the file system here can hold."""
LOOK = 256 << 10
"""Bytes of the disk that are read at its start and end."""


class LimitError(AssertionError):
    """A step took more than it may."""


class MeteredChild(Edge):
    """Counts what is asked of the file, and ends what takes too much."""

    bytes_read = 0
    requests = 0
    data: StorageChild
    """The external data file, if the header wants one."""

    def start(self, limit: int = MAX_STEP_BYTES) -> None:
        """Begin a step."""
        self.bytes_read = self.requests = 0
        self._limit = limit

    def _count(self, length: int) -> None:
        self.bytes_read += length
        self.requests += 1
        if self.bytes_read > self._limit or self.requests > MAX_STEP_REQUESTS:
            raise LimitError(f"{self.bytes_read} bytes in {self.requests} requests")

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read."""
        self._count(length)
        return await super().pread(offset, length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write; no file system holds a file that ends anywhere."""
        if offset + len(payload) > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        await super().pwrite(offset, payload, flags)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes."""
        if offset + length > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        await super().pwrite_zeroes(offset, length, flags)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Map."""
        self._count(0)
        return await super().block_status(offset, length)


@contextlib.asynccontextmanager
async def opened(storage: MemoryStorage, *, read_only: bool) -> AsyncIterator[MeteredChild]:
    """Open the image's files; they are closed behind."""
    child = MeteredChild(await storage.open(PATH, read_only=read_only))
    child.data = StorageChild(await storage.open(DATA_PATH, read_only=read_only))
    child.start(MAX_OPEN_BYTES)
    try:
        yield child
    finally:
        await child.file.close()
        await child.data.file.close()


def changes(storage: MemoryStorage) -> int:
    """Return how often the storage was asked to change something."""
    return sum(
        storage.requests.get(name, 0) for name in ("pwrite", "write_zeroes", "discard", "truncate")
    )


async def exercise(image: bytes) -> bool:
    """Do everything with an image; return whether it could be opened at all."""
    storage = MemoryStorage()
    storage.load(PATH, image)
    storage.load(DATA_PATH, bytes(DATA_BYTES))
    found = False
    async with opened(storage, read_only=True) as child:
        found = await _look(storage, child)
    async with opened(storage, read_only=True) as child:
        await _check(child, repair=False)
    assert changes(storage) == 0, "something was written to an image that is only looked at"
    async with opened(storage, read_only=False) as child:
        await _use(storage, child)
    storage.load(PATH, image)
    async with opened(storage, read_only=False) as child:
        await _check(child, repair=True)
    assert not storage.open_files
    return found


async def _look(storage: MemoryStorage, child: MeteredChild) -> bool:
    try:
        driver = await open_driver(storage, child, child.data, read_only=True)
    except QmpError:
        return False
    with contextlib.suppress(QmpError):
        child.start()
        await driver.load_bitmaps()
    driver.image_specific()
    driver.bitmaps.describe()
    await _read(driver, child)
    snapshots = driver.internal_snapshots
    assert isinstance(snapshots, Qcow2Snapshots)
    for snapshot in snapshots.entries[:3]:
        with contextlib.suppress(OSError):
            child.start()
            await snapshots.look_at(snapshot)
            await _read(driver, child)
    await driver.close()
    return True


async def _read(driver: Qcow2Driver, child: MeteredChild) -> None:
    length = driver.length
    for start, stop in ((0, min(LOOK, length)), (max(0, length - LOOK), length)):
        child.start()
        with contextlib.suppress(OSError):
            await driver.pread(start, stop - start)
        with contextlib.suppress(OSError):
            extents = await driver.block_status(start, stop - start)
            assert sum(extent.length for extent in extents) == stop - start


async def _check(child: MeteredChild, *, repair: bool) -> None:
    try:
        image = await open_image(
            await children_of(child, child.data), writable=repair, checking=True
        )
        child.start()
        with contextlib.suppress(OSError):
            await check_image(image, repair=repair)
    except QmpError:
        pass


async def _use(storage: MemoryStorage, child: MeteredChild) -> None:
    """Use the image as a writer does."""
    try:
        driver = await open_driver(storage, child, child.data)
    except QmpError as error:
        repaired = "repair" in error.desc  # a dirty image: what could be set right was
        assert changes(storage) == 0 or repaired, "a refused opening has written"
        return
    size = driver.cluster_size or 512
    length = driver.length
    for offset in {0, length // 2 // size * size, max(0, length - size)}:
        await _write(driver, child, offset, min(3 * size, length - offset))
    await _change_as_a_whole(driver, child)
    child.start()
    await driver.close()


async def _write(driver: Qcow2Driver, child: MeteredChild, offset: int, length: int) -> None:
    child.start()
    with contextlib.suppress(OSError):
        await driver.pwrite(offset, b"\xee" * length)
    with contextlib.suppress(OSError):
        await driver.pwrite(offset, b"\xee" * length, WriteFlags.COMPRESSED)
    size = driver.cluster_size or 512
    runs: Runs = [
        (at, b"\xdd" * size) for at in range(offset, offset + length - size + 1, 2 * size)
    ]
    with contextlib.suppress(OSError):
        await driver.pwrite_runs(runs)
    with contextlib.suppress(OSError):
        await driver.pwrite_zeroes(offset, length // 2)
    with contextlib.suppress(OSError):
        await driver.pdiscard(offset, length)
    with contextlib.suppress(OSError):
        await driver.flush()


async def _change_as_a_whole(driver: Qcow2Driver, child: MeteredChild) -> None:
    snapshots = driver.internal_snapshots
    assert isinstance(snapshots, Qcow2Snapshots)
    for snapshot in snapshots.entries[:1]:
        for step in (snapshots.apply, snapshots.delete):
            child.start()
            with contextlib.suppress(OSError):
                await step(snapshot)
    child.start()
    with contextlib.suppress(OSError):
        await snapshots.create("new", date_us=0)
    with contextlib.suppress(OSError, QmpError):
        bitmaps = await driver.load_bitmaps()
        child.start()
        await driver.store_bitmaps(bitmaps)
    for entry in driver.bitmaps.entries[:1]:
        child.start()
        with contextlib.suppress(OSError, QmpError):
            await driver.remove_persistent_bitmap(entry.name)
    for length in (driver.length + 4096, 512):
        child.start()
        with contextlib.suppress(OSError, QmpError):
            await driver.truncate(length)
