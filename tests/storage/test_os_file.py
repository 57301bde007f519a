"""Files of the host: reads, writes, zeroes, holes, copies, flushes."""

import asyncio
import errno
import os

import pytest

from blkxact.storage import os_file
from blkxact.storage.api import StorageFile
from blkxact.storage.copy_range import RangeCopier
from blkxact.storage.errors import CopyError, LockConflict
from blkxact.testing.memory_file import MemoryStorage

from .held import Held, assert_cancelled_request_runs_to_its_end

MIB = 1 << 20


@pytest.fixture
async def file(storage, image_dir):
    made = await storage.create(str(image_dir / "file"))
    yield made
    await made.close()


def refuse(number):
    def call(*_):
        raise OSError(number, os.strerror(number))

    return call


async def test_os_file_is_a_storage_file(file):
    assert isinstance(file, StorageFile)


@pytest.mark.parametrize("length", [1, 4096, os_file.INLINE_LIMIT, os_file.INLINE_LIMIT + 1, MIB])
async def test_bytes_written_are_read_back(file, seeded, length):
    data = seeded.randbytes(length)
    await file.pwrite(777, data)
    assert await file.pread(777, length) == data
    assert await file.pread(0, 777) == bytes(777)
    assert file.size() == 777 + length


@pytest.mark.parametrize("length", [100, MIB])
async def test_read_beyond_the_end_gives_zeroes(file, length):
    await file.pwrite(0, b"end")
    assert await file.pread(1, length) == b"nd".ljust(length, b"\0")
    assert await file.pread(10 * MIB, length) == bytes(length)


@pytest.mark.parametrize("length", [1000, MIB])
async def test_parts_are_written_one_after_the_other(file, seeded, length):
    parts = [seeded.randbytes(length), b"", memoryview(seeded.randbytes(10)), bytearray(5)]
    await file.pwritev(3, parts)
    assert await file.pread(3, length + 15) == b"".join(parts)


async def test_more_parts_than_one_call_takes_are_all_written(file):
    parts = [b"ab"] * (os_file.MAX_IOV + 1)
    await file.pwritev(0, parts)
    assert await file.pread(0, 4096) == b"".join(parts).ljust(4096, b"\0")


async def test_write_that_the_system_cuts_short_is_completed(file, monkeypatch, seeded):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, memoryview(data)[:1000], at))
    for length in (5000, MIB // 4):
        data = seeded.randbytes(length)
        await file.pwrite(0, data)
        assert await file.pread(0, length) == data


@pytest.mark.parametrize("may_unmap", [False, True])
@pytest.mark.parametrize(("offset", "length"), [(5000, 10_000), (0, 2 * MIB), (MIB - 1, MIB)])
async def test_zeroes_replace_data_and_grow_the_file(file, may_unmap, offset, length):
    await file.pwrite(0, b"\1" * MIB)
    await file.write_zeroes(offset, length, may_unmap=may_unmap)
    expected = bytearray(b"\1" * MIB)
    expected[offset : offset + length] = bytes(length)
    assert file.size() == len(expected)
    assert await file.pread(0, len(expected)) == expected


async def test_zeroes_without_help_of_the_file_system_are_written(file, monkeypatch):
    monkeypatch.setattr(os_file, "try_fallocate", lambda *_: False)
    await file.pwrite(0, b"\1" * MIB)
    await file.write_zeroes(10, MIB - 20)
    assert await file.pread(0, MIB) == b"\1" * 10 + bytes(MIB - 20) + b"\1" * 10


async def test_holes_and_data_are_told_apart(file):
    await file.truncate(4 * MIB)
    await file.pwrite(MIB, b"\1" * MIB)
    expected = [(0, MIB, False), (MIB, MIB, True), (2 * MIB, 3 * MIB, False)]
    assert await file.map(0, 5 * MIB) == expected
    assert await file.map(MIB + 4096, 4096) == [(MIB + 4096, 4096, True)]
    await file.discard(MIB, MIB // 2)
    assert (await file.map(MIB, MIB))[0] == (MIB, MIB // 2, False)
    assert file.allocated_size() < MIB


async def test_file_system_that_cannot_tell_holes_has_data_everywhere(file, monkeypatch):
    await file.pwrite(0, b"\1" * MIB)
    monkeypatch.setattr(os, "lseek", refuse(errno.EINVAL))
    assert await file.map(0, 2 * MIB) == [(0, MIB, True), (MIB, MIB, False)]


@pytest.mark.parametrize("write", ["pwrite", "write_zeroes", "discard", "truncate", "copy_from"])
async def test_read_only_file_refuses_changes(storage, file, write):
    await file.pwrite(0, b"as it is")
    opened = await storage.open(file.path, read_only=True)
    arguments = {
        "pwrite": (0, b"x"), "write_zeroes": (0, 1), "discard": (0, 1), "truncate": (5,),
        "copy_from": (0, file, 0, 1),
    }[write]  # fmt: skip
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        await getattr(opened, write)(*arguments)
    await opened.close()
    assert await file.pread(0, 8) == b"as it is"


async def test_fifo_does_not_stop_the_loop(storage, image_dir):
    path = image_dir / "fifo"
    os.mkfifo(path)
    opened = await storage.open(str(path), read_only=True)
    assert not opened.is_regular
    await opened.close()


# Copies


@pytest.mark.parametrize("length", [10, os_file.INLINE_LIMIT + 5, os_file.COPY_PIECE * 2 + 100])
@pytest.mark.parametrize("in_kernel", [True, False])
async def test_range_of_another_file_is_copied(
    storage, file, image_dir, seeded, monkeypatch, length, in_kernel
):
    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.EXDEV))
    source = await storage.create(str(image_dir / "source"))
    data = seeded.randbytes(length)
    await source.pwrite(33, data)
    await file.copy_from(7, source, 33, length)
    assert await file.pread(7, length) == data
    await source.close()


@pytest.mark.parametrize("in_kernel", [True, False])
async def test_copy_beyond_the_end_of_the_source_is_zeroes(
    storage, file, image_dir, monkeypatch, in_kernel
):
    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.EINVAL))
    source = await storage.create(str(image_dir / "source"))
    await source.pwrite(0, b"short")
    await file.pwrite(0, b"\1" * 100)
    await file.copy_from(0, source, 0, 50)
    assert await file.pread(0, 100) == b"short" + bytes(45) + b"\1" * 50
    await source.close()


async def test_copy_within_one_file_moves_the_bytes(file):
    await file.pwrite(0, b"0123456789")
    await file.copy_from(5, file, 0, 5)
    assert await file.pread(0, 10) == b"0123401234"


def test_refused_pair_of_files_is_not_asked_again(image_dir, monkeypatch):
    asked = []

    def refused(*arguments):
        asked.append(arguments)
        raise OSError(errno.EXDEV, "no")

    monkeypatch.setattr(os, "copy_file_range", refused)
    source, target = (os.open(image_dir / n, os.O_RDWR | os.O_CREAT) for n in "st")
    copier = RangeCopier()
    for _ in range(3):
        copier.copy(source, 0, target, 0, 100)
    assert len(asked) == 1
    copier.forget(target)
    copier.copy(source, 0, target, 0, 100)
    assert len(asked) == 2
    os.close(source)
    os.close(target)


@pytest.mark.parametrize("reading", [True, False])
async def test_failed_copy_tells_the_side(storage, file, image_dir, monkeypatch, reading):
    source = await storage.create(str(image_dir / "source"))
    await source.pwrite(0, b"x" * 1000)
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.EIO))
    monkeypatch.setattr(os, "preadv" if reading else "pwrite", refuse(errno.EIO))
    with pytest.raises(CopyError) as error:
        await file.copy_from(0, source, 0, 1000)
    assert (error.value.reading, error.value.errno) == (reading, errno.EIO)
    monkeypatch.undo()
    await source.close()


async def test_copy_from_a_file_of_another_storage_goes_through_memory(file, seeded):
    data = seeded.randbytes(MIB)
    other = await MemoryStorage().create("m")
    await other.pwrite(0, data)
    await file.copy_from(9, other, 0, MIB)
    assert await file.pread(9, MIB) == data


# Invariants


async def test_cancelled_request_runs_to_its_end(file, monkeypatch):
    held = Held()
    monkeypatch.setattr(os_file, "write_all", held)
    request = file.pwrite(0, bytes(os_file.INLINE_LIMIT + 1))
    await assert_cancelled_request_runs_to_its_end(request, held)


async def test_flush_fails_for_ever_after_it_failed_once(file, monkeypatch):
    await file.flush()
    monkeypatch.setattr(os, "fdatasync", refuse(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await file.flush()
    monkeypatch.undo()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await file.flush()


async def test_inline_requests_give_other_tasks_turns(file):
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    for _ in range(1000):
        await file.pread(0, 4096)
    task.cancel()
    assert turns > 3


async def test_creating_a_file_in_use_leaves_it_as_it_is(storage, file):
    await file.pwrite(0, b"precious")
    file.lock(perm=2, shared=0)
    with pytest.raises(LockConflict):
        await storage.create(file.path)
    assert await file.pread(0, 8) == b"precious"


async def test_closed_file_lets_its_locks_go(storage, file):
    opened = await storage.open(file.path)
    opened.lock(perm=2, shared=0)
    with pytest.raises(LockConflict):
        file.lock(perm=2, shared=0)
    await opened.close()
    await opened.close()
    file.lock(perm=2, shared=0)
