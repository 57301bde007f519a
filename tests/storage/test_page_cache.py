"""What is not in the page cache is read and written by a thread, whatever the file system says.

The cache is a pretended one, so the tests are the same on any file system.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from blkxact.blockdev.blockdev import Blockdev
from blkxact.storage import page_cache
from blkxact.storage.os_file import INLINE_LIMIT, OsFile, OsStorage
from blkxact.storage.page_cache import PAGE
from blkxact.testing.faults import Record
from tests.environment import environment

from .held import Held, assert_cancelled_request_runs_to_its_end

MIB = 1 << 20


class PretendedCache:
    """The first ``cached`` bytes of each file are cached; None: the file system cannot tell.

    ``waited`` are the reads and writes that could wait, with the thread that made them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cached: int | None = MIB
        self.takes_writes = False
        """Whether writes may ask not to wait."""
        self.waited: list[tuple[str, int, int, threading.Thread]] = []
        self._real = {name: getattr(os, name) for name in ("pread", "preadv", "pwrite", "pwritev")}
        for name in self._real:
            monkeypatch.setattr(os, name, getattr(self, name))
        monkeypatch.setattr(page_cache, "is_in_memory", lambda _: False)

    def hold_back(self, fd: int) -> None:
        """Called before a read or write that may wait."""

    def preadv(self, fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if not flags & os.RWF_NOWAIT:
            return self._real["preadv"](fd, buffers, offset, flags)
        if self.cached is None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        (buffer,) = buffers
        size = os.fstat(fd).st_size
        at_hand = min(self.cached, size) - offset
        if at_hand <= 0 and offset < size:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self._real["preadv"](fd, [memoryview(buffer)[: max(0, at_hand)]], offset)

    def pwritev(self, fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if not flags & os.RWF_NOWAIT:
            return self._real["pwritev"](fd, buffers, offset)
        if not self.takes_writes:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        (buffer,) = buffers
        at_hand = (self.cached or 0) - offset
        if at_hand <= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self._real["pwritev"](fd, [memoryview(buffer)[:at_hand]], offset)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self.waited.append(("read", offset, length, threading.current_thread()))
        self.hold_back(fd)
        return self._real["pread"](fd, length, offset)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        self.waited.append(("write", offset, len(data), threading.current_thread()))
        self.hold_back(fd)
        return self._real["pwrite"](fd, data, offset)

    def on_the_loop(self) -> list[tuple[str, int, int]]:
        """Return what was read or written on the loop and could have waited."""
        return [each[:3] for each in self.waited if each[3] is threading.main_thread()]

    def in_threads(self) -> list[tuple[str, int, int]]:
        return [each[:3] for each in self.waited if each[3] is not threading.main_thread()]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> PretendedCache:
    return PretendedCache(monkeypatch)


@pytest.fixture
async def file(
    cache: PretendedCache, storage: OsStorage, image_dir: Path, seeded: random.Random
) -> AsyncIterator[OsFile]:
    path = image_dir / "file"
    path.write_bytes(seeded.randbytes(MIB))
    opened = await storage.open(str(path))
    yield opened
    await opened.close()


def content(file: OsFile) -> bytes:
    return Path(file.path).read_bytes()


@pytest.mark.parametrize("length", [1, 4096, INLINE_LIMIT])
async def test_cached_bytes_are_read_without_a_wait(
    cache: PretendedCache, file: OsFile, length: int
) -> None:
    assert await file.pread(0, length) == content(file)[:length]
    assert cache.waited == []


@pytest.mark.parametrize("length", [1, 4096, 256 << 10])
async def test_loop_goes_on_while_a_disk_is_waited_for(
    cache: PretendedCache, file: OsFile, length: int
) -> None:
    expected = content(file)[:length]
    cache.cached = 0
    started, go_on = threading.Event(), threading.Event()

    def wait_for_disk(_: int) -> None:
        started.set()
        assert go_on.wait(30)

    cache.hold_back = wait_for_disk  # type: ignore[method-assign]
    reading = asyncio.ensure_future(file.pread(0, length))
    assert await asyncio.to_thread(started.wait, 30)  # so the loop is at work
    assert not reading.done()
    go_on.set()
    assert await reading == expected


async def test_only_the_rest_of_what_is_cached_in_part_is_waited_for(
    cache: PretendedCache, file: OsFile
) -> None:
    cache.cached = 8192
    assert await file.pread(4096, 16384) == content(file)[4096:20480]
    assert cache.in_threads() == [("read", 8192, 12288)]
    assert cache.on_the_loop() == []


@pytest.mark.parametrize("offset", [MIB - 100, MIB, 2 * MIB])
async def test_what_is_beyond_the_end_is_not_waited_for(
    cache: PretendedCache, file: OsFile, offset: int
) -> None:
    cache.cached = 2 * MIB
    assert await file.pread(offset, 4096) == content(file)[offset:].ljust(4096, b"\0")
    assert cache.waited == []


async def test_end_of_the_file_behind_what_is_not_cached_is_zeroes(
    cache: PretendedCache, file: OsFile
) -> None:
    cache.cached = MIB - 4096
    assert await file.pread(MIB - 8192, 16384) == content(file)[-8192:] + bytes(8192)
    assert cache.on_the_loop() == []


@pytest.mark.parametrize("length", [1, 4096])
async def test_file_system_that_cannot_tell_is_left_to_threads(
    cache: PretendedCache, storage: OsStorage, file: OsFile, length: int
) -> None:
    cache.cached = None
    slow = await storage.open(file.path)
    await slow.pwrite(0, b"x" * length)
    assert await slow.pread(0, length) == b"x" * length
    await slow.pwritev(0, [b"y"])
    await slow.copy_from(0, slow, 4096, 1)
    await slow.write_zeroes(0, 1)
    assert cache.in_threads()
    assert cache.on_the_loop() == []
    await slow.close()


@pytest.mark.parametrize("length", [4096, INLINE_LIMIT])
async def test_file_system_in_memory_has_no_disk_to_wait_for(
    cache: PretendedCache,
    storage: OsStorage,
    file: OsFile,
    monkeypatch: pytest.MonkeyPatch,
    length: int,
) -> None:
    monkeypatch.setattr(page_cache, "is_in_memory", lambda _: True)
    cache.cached = None
    quick = await storage.open(file.path)
    await quick.pwrite(0, b"x" * length)
    assert await quick.pread(0, length) == b"x" * length
    assert cache.on_the_loop() == [("write", 0, length), ("read", 0, length)]
    assert cache.in_threads() == []
    await quick.close()


async def test_error_of_the_disk_is_the_caller_s(
    file: OsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await file.pread(0, 4096)


# Writes


@pytest.mark.parametrize(("offset", "length"), [(0, PAGE), (PAGE, 16 * PAGE), (2 * MIB, 100)])
async def test_write_of_whole_pages_needs_no_disk(
    cache: PretendedCache, file: OsFile, offset: int, length: int
) -> None:
    cache.cached = 0
    await file.pwrite(offset, b"x" * length)
    assert cache.in_threads() == []
    assert content(file)[offset : offset + length] == b"x" * length


@pytest.mark.parametrize(("offset", "length"), [(1, PAGE - 1), (0, PAGE - 1), (5, 1)])
async def test_write_of_a_part_of_a_page_waits_for_the_rest_of_it(
    cache: PretendedCache, file: OsFile, offset: int, length: int
) -> None:
    cache.cached = 0
    expected = bytearray(content(file))
    await file.pwrite(offset, b"x" * length)
    expected[offset : offset + length] = b"x" * length
    assert cache.on_the_loop() == []
    assert cache.in_threads() == [("write", offset, length)]
    assert content(file) == expected
    cache.cached = MIB
    await file.pwrite(offset, b"y" * length)
    assert cache.on_the_loop() == [("write", offset, length)]


async def test_write_may_ask_not_to_wait(cache: PretendedCache, file: OsFile) -> None:
    cache.takes_writes, cache.cached = True, 8192
    data = bytes(range(256)) * 64
    for offset in (0, 4096, MIB // 2):
        await file.pwrite(offset, data)
        assert content(file)[offset : offset + len(data)] == data
    assert cache.on_the_loop() == []
    assert cache.in_threads() == [
        ("write", 8192, 8192), ("write", 8192, 12288), ("write", MIB // 2, 16384)
    ]  # fmt: skip


@pytest.mark.parametrize("cached", [0, MIB])
async def test_copy_reads_on_the_loop_only_what_is_cached(
    cache: PretendedCache, storage: OsStorage, file: OsFile, image_dir: Path, cached: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    threads: list[threading.Thread] = []
    copy = os.copy_file_range

    def note(*arguments: Any) -> int:
        threads.append(threading.current_thread())
        return copy(*arguments)

    monkeypatch.setattr(os, "copy_file_range", note)
    target = await storage.create(str(image_dir / "target"))
    cache.cached = cached
    await target.copy_from(0, file, 4096, 65536)
    assert content(target) == content(file)[4096 : 4096 + 65536]
    assert [thread is threading.main_thread() for thread in threads] == [bool(cached)]
    await target.close()


@pytest.mark.qemu
async def test_tables_and_bitmaps_of_an_image_are_waited_for_in_threads(
    cache: PretendedCache, storage: OsStorage, image_dir: Path, qemu_img: Callable[..., str]
) -> None:
    image = image_dir / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    qemu_img("bitmap", "--add", image, "b0")
    cache.cached = 0
    blockdev = Blockdev(environment(storage))
    file = {"driver": "file", "filename": str(image)}
    node = await blockdev.add({"driver": "qcow2", "node-name": "n", "file": file})
    await node.pwrite(65536, b"x" * 5)
    assert bytes(await node.pread(65536, 5)) == b"x" * 5
    assert await node.block_status(0, MIB)
    await blockdev.close_all()
    reads = [each for each in cache.in_threads() if each[0] == "read"]
    assert len(reads) > 3  # header, tables, bitmap
    assert [each for each in cache.on_the_loop() if each[0] == "read"] == []


# Invariants


@pytest.mark.parametrize("cached", [0, 4096, MIB])
async def test_read_passes_its_point_once(
    cache: PretendedCache, storage: OsStorage, file: OsFile, cached: int
) -> None:
    cache.cached = cached
    record = Record(storage.points)
    await file.pread(0, 8192)
    await file.pwrite(1, b"x")
    passed = [(each.point, each.facts["length"]) for each in record.passings]
    assert passed == [("storage.pread", 8192), ("storage.pwrite", 1)]


@pytest.mark.parametrize(
    "request_of",
    [lambda file: file.pread(0, 4096), lambda file: file.pwrite(1, b"x")],
    ids=["read", "write"],
)
async def test_cancelled_request_at_a_disk_runs_to_its_end(
    cache: PretendedCache, file: OsFile, request_of: Callable[[OsFile], Any]
) -> None:
    cache.cached = 0
    held = Held()
    cache.hold_back = held  # type: ignore[method-assign]
    await assert_cancelled_request_runs_to_its_end(request_of(file), held)
