"""The memory storage: a file like the host's, with accidents."""

import asyncio
import contextlib
import errno
import os
import random

import pytest

from blkxact.block.types import Permission
from blkxact.storage.api import FileRange, StorageFile, write_payload
from blkxact.storage.errors import CopyError, LockConflict
from blkxact.storage.os_file import OsStorage
from blkxact.testing.faults import Fault
from blkxact.testing.loop import run_simulated
from blkxact.testing.memory_file import MemoryStorage

READ, WRITE = Permission.CONSISTENT_READ, Permission.WRITE
SEEDS = range(40)


@pytest.fixture
def storage():
    return MemoryStorage()


@contextlib.contextmanager
def fails_with(number):
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        yield
    assert caught.value.errno == number


async def content(storage, path="f"):
    file = await storage.open(path, read_only=True)
    data = bytes(await file.pread(0, file.size()))
    await file.close()
    return data


# --- a file


async def test_random_requests_give_what_the_host_gives(storage, image_dir, seeded):
    host = OsStorage()
    real = await host.create(str(image_dir / "f"))
    other = await host.create(str(image_dir / "g"))
    fake, fake_other = await storage.create("f"), await storage.create("g")
    for files in ((real, other), (fake, fake_other)):
        await files[1].pwrite(5000, b"other" * 3000)
    for _ in range(200):
        offset, length = seeded.randrange(100_000), seeded.choice([1, 512, 4096, 30_000])
        work = seeded.choice(["write", "zero", "unmap", "punch", "truncate", "copy", "vector"])
        data = seeded.randbytes(length)
        for file, source in ((real, other), (fake, fake_other)):
            if work == "write":
                await file.pwrite(offset, data)
            elif work == "vector":
                await file.pwritev(offset, [data[:7], bytearray(data[7:])])
            elif work in ("zero", "unmap"):
                await file.write_zeroes(offset, length, may_unmap=work == "unmap")
            elif work == "punch":
                await file.discard(offset, length)
            elif work == "truncate":
                await file.truncate(offset)
            else:
                await file.copy_from(offset, source, length, length)
        assert fake.size() == real.size(), work
        assert await fake.pread(0, 140_000) == await real.pread(0, 140_000), work
    for file in (real, other, fake, fake_other):
        await file.close()
    host.close()


async def test_memory_file_is_a_storage_file(storage):
    file = await storage.create("f")
    assert isinstance(file, StorageFile)
    await file.close()
    await file.close()
    with fails_with(errno.EBADF):
        await file.pread(0, 1)


async def test_read_only_file_refuses_to_change(storage):
    storage.load("f", b"data")
    file = await storage.open("f", read_only=True)
    for work in (
        file.pwrite(0, b"x"),
        file.pwritev(0, [b"x"]),
        file.write_zeroes(0, 1),
        file.discard(0, 1),
        file.truncate(0),
    ):
        with fails_with(errno.EBADF):
            await work
    assert await content(storage) == b"data"


async def test_missing_file_is_not_found(storage):
    assert not storage.exists("f")
    with pytest.raises(FileNotFoundError):
        await storage.open("f")
    with pytest.raises(FileNotFoundError):
        storage.unlink("f")


async def test_unlinked_file_serves_who_has_it_open(storage):
    file = await storage.create("f")
    await file.pwrite(0, b"data")
    storage.unlink("f")
    assert not storage.exists("f")
    assert await file.pread(0, 4) == b"data"
    await file.flush()
    assert storage.crash().paths() == []


async def test_file_range_is_copied(storage):
    storage.load("source", b"0123456789")
    source, file = await storage.open("source"), await storage.create("f")
    await write_payload(file, 100, FileRange(source, 2, 5))
    assert await file.pread(100, 5) == b"23456"


async def test_huge_sparse_file_takes_little_room(storage):
    file = await storage.create("f")
    await file.truncate(16 << 40)
    await file.pwrite((16 << 40) - 1, b"x")
    assert file.size() == 16 << 40
    assert file.allocated_size() == 4096
    await file.write_zeroes(0, 1 << 40)
    assert file.allocated_size() == 4096 + (1 << 40)


async def test_load_and_dump_carry_files_of_the_host(storage, image_dir):
    data = bytes(70_000) + b"x" * 10_000 + bytes(3)
    (image_dir / "in").write_bytes(data)
    storage.load("f", image_dir / "in")
    assert await content(storage) == data
    assert await content(storage.crash()) == data
    storage.dump("f", image_dir / "out")
    assert (image_dir / "out").read_bytes() == data


# --- locks


async def lock_error(file, perm, shared):
    try:
        file.lock(perm=perm, shared=shared)
    except LockConflict as error:
        return error.errno, error.message
    return None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((READ, Permission.ALL), (READ | WRITE, Permission.ALL)),
        ((WRITE, Permission.ALL & ~WRITE), (READ, Permission.ALL)),
        ((READ, Permission.ALL & ~WRITE), (WRITE, Permission.ALL)),
        ((WRITE, Permission.ALL), (READ, Permission.ALL & ~WRITE)),
        ((READ | WRITE, READ), (READ | WRITE, READ)),
        ((Permission.RESIZE, Permission.ALL), (READ, READ | WRITE)),
        ((Permission.NONE, Permission.NONE), (Permission.WRITE_UNCHANGED, Permission.ALL)),
    ],
)
async def test_lock_conflicts_are_those_of_the_host(storage, image_dir, first, second):
    host = OsStorage()
    path = str(image_dir / "f")
    answers = []
    for place, name in ((host, path), (storage, "f")):
        one, two = await place.create(name), await place.open(name)
        assert await lock_error(one, *first) is None
        answers.append([await lock_error(two, *second)])
        one.lock(perm=0, shared=Permission.ALL)
        answers[-1].append(await lock_error(two, *second))
        await one.close()
        await two.close()
    host.close()
    assert answers[0] == answers[1]
    assert answers[0][1] is None


async def test_lock_refused_leaves_the_old_one(storage):
    one, two = await storage.create("f"), await storage.open("f")
    one.lock(perm=WRITE, shared=Permission.ALL & ~WRITE)
    two.lock(perm=READ, shared=Permission.ALL)
    assert await lock_error(two, WRITE, Permission.ALL) == (
        errno.EAGAIN,
        'Failed to get "write" lock',
    )
    assert await lock_error(one, WRITE, Permission.NONE) is not None
    await one.close()
    assert await lock_error(two, WRITE, Permission.NONE) is None


async def test_create_of_a_file_in_use_is_refused_and_leaves_it(storage):
    storage.load("f", b"data")
    file = await storage.open("f")
    file.lock(perm=READ, shared=READ)
    with pytest.raises(LockConflict):
        await storage.create("f")
    assert await content(storage) == b"data"
    assert storage.open_files == {file}


# --- faults


async def test_fault_strikes_the_request_it_names_once(storage):
    file = await storage.create("f")
    storage.faults.add(Fault("storage.pwrite", errno.ENOSPC, {"path": "f"}, start=4096, skip=1))
    await file.pwrite(0, b"before the range")
    await file.pwrite(5000, b"skipped")
    with fails_with(errno.ENOSPC):
        await file.pwrite(4000, b"x" * 97)
    assert await file.pread(4000, 97) == bytes(97)
    await file.pwrite(4000, b"x" * 97)


async def test_partial_fault_may_leave_some_sectors():
    left = set()
    for seed in SEEDS:
        storage = MemoryStorage(random.Random(seed))
        file = await storage.create("f")
        storage.faults.add(Fault("storage.pwrite", errno.EIO, partial=True))
        with fails_with(errno.EIO):
            await file.pwrite(0, b"x" * 2048)
        data = await file.pread(0, 2048)
        left.add(tuple(data[i : i + 512].count(b"x") for i in range(0, 2048, 512)))
    assert len(left) > 5
    assert {count for sectors in left for count in sectors} == {0, 512}


@pytest.mark.parametrize(("path", "reading"), [("source", True), ("f", False)])
async def test_fault_in_a_copy_names_the_side(storage, path, reading):
    storage.load("source", b"data")
    source, file = await storage.open("source"), await storage.create("f")
    storage.faults.add(Fault("storage.*", errno.EIO, {"path": path}))
    with pytest.raises(CopyError) as caught:
        await file.copy_from(0, source, 0, 4)
    assert caught.value.reading is reading


async def test_failed_flush_fails_for_ever(storage):
    file = await storage.create("f")
    storage.faults.add(Fault("storage.flush", errno.EIO))
    for _ in range(2):
        with fails_with(errno.EIO):
            await file.flush()
    await file.close()
    file = await storage.open("f")
    await file.flush()


# --- power loss


async def test_crash_keeps_what_was_flushed(storage):
    file = await storage.create("f")
    await file.pwrite(0, b"a" * 4096)
    await file.flush()
    await file.pwrite(0, b"b" * 4096)
    for seed in SEEDS:
        after = await content(storage.crash(random.Random(seed)))
        assert len(after) == 4096
        assert set(after) <= set(b"ab")
        for start in range(0, 4096, 512):
            assert len(set(after[start : start + 512])) == 1, "a sector was torn"


async def test_crash_finds_unflushed_writes_kept_lost_torn_and_reordered(storage):
    file = await storage.create("f")
    await file.truncate(2048)
    await file.flush()
    await file.pwrite(0, b"a" * 1024)
    await file.pwrite(512, b"b" * 1024)
    found = set()
    for seed in range(300):
        data = await content(storage.crash(random.Random(seed)))
        found.add("".join(chr(data[i] or ord(".")) for i in range(0, 2048, 512)))
    assert {"....", "abb.", "aa..", ".bb.", "a...", ".b..", "aab."} <= found
    assert all(state[3] == "." for state in found)


async def test_crash_of_growing_file_may_lose_its_length(storage):
    file = await storage.create("f")
    await file.flush()
    await file.truncate(4096)
    sizes = {len(await content(storage.crash(random.Random(seed)))) for seed in SEEDS}
    assert sizes == {0, 4096}


async def test_crash_may_find_changes_in_another_order(storage):
    storage.load("f", b"." * 1024)
    file = await storage.open("f")
    await file.pwrite(0, b"a" * 512)
    await file.truncate(0)
    found = {await content(storage.crash(random.Random(seed))) for seed in range(100)}
    assert found == {b"." * 1024, b"a" * 512 + b"." * 512, b"", b"a" * 512}


async def test_crash_leaves_the_storage_and_its_child_apart(storage):
    file = await storage.create("f")
    await file.pwrite(0, b"old")
    await file.flush()
    child = storage.crash()
    other = await child.open("f")
    other.lock(perm=WRITE, shared=Permission.NONE)
    await other.pwrite(0, b"new")
    assert await file.pread(0, 3) == b"old"
    assert await content(storage) == b"old"


async def test_flush_of_one_file_leaves_the_other_at_risk(storage):
    one, two = await storage.create("one"), await storage.create("two")
    await two.flush()
    await one.pwrite(0, b"1")
    await two.pwrite(0, b"2")
    await one.flush()
    crashes = [storage.crash(random.Random(seed)) for seed in SEEDS]
    assert {await content(crash, "one") for crash in crashes} == {b"1"}
    assert {await content(crash, "two") for crash in crashes} == {b"", b"2"}


async def test_killed_process_loses_nothing_that_was_written(storage):
    file = await storage.create("f")
    await file.pwrite(0, b"data")
    assert await content(storage.killed()) == b"data"


def test_write_under_way_when_a_flush_begins_is_not_made_durable():
    async def main(loop):
        storage = MemoryStorage(loop.random, latency=0.1)
        file = await storage.create("f")
        await file.flush()
        write = asyncio.create_task(file.pwrite(0, b"x"))
        await asyncio.sleep(0)
        written = write.done()
        await file.flush()
        await write
        crashes = [storage.crash(random.Random(seed)) for seed in range(20)]
        return written, {await content(crash) for crash in crashes}

    seen = set()
    for seed in SEEDS:
        written, found = run_simulated(main, seed)
        assert found == ({b"x"} if written else {b"", b"x"})
        seen.add(written)
    assert False in seen


async def test_prefixes_are_every_state_in_order():
    storage = MemoryStorage(history=True)
    storage.load("f", b"....")
    file = await storage.open("f")
    await file.pwrite(0, b"a")
    await file.flush()
    await file.pwrite(1, b"b")
    other = await storage.create("g")
    await other.pwrite(0, b"c")
    states = [
        {path: await content(state, path) for path in state.paths()} for state in storage.prefixes()
    ]
    assert states == [
        {"f": b"...."},
        {"f": b"a..."},
        {"f": b"ab.."},
        {"f": b"ab..", "g": b""},  # its name
        {"f": b"ab..", "g": b""},  # its length
        {"f": b"ab..", "g": b"c"},
    ]


async def test_checkpoint_begins_the_history():
    storage = MemoryStorage(history=True)
    file = await storage.create("f")
    await file.pwrite(0, b"a")
    storage.checkpoint()
    await file.pwrite(0, b"b")
    assert [await content(state) for state in storage.prefixes()] == [b"a", b"b"]


async def test_crashes_at_each_moment_keep_what_was_durable_then():
    storage = MemoryStorage(random.Random(5), history=True)
    storage.load("f", b"0" * 512)
    file = await storage.open("f")
    for byte in (b"1", b"2", b"3"):
        await file.pwrite(0, byte * 512)
        await file.flush()
    states = [set(await content(state)) for state in storage.crashes()]
    assert len(states) == 7
    for moment, state in enumerate(states):
        flushed = moment // 2
        assert state <= {ord(str(flushed)), ord(str(flushed + moment % 2))}
        assert len(state) == 1


# --- time


def test_slow_requests_overtake_each_other():
    async def main(loop):
        storage = MemoryStorage(loop.random, latency=0.01)
        file = await storage.create("f")
        await asyncio.gather(*(file.pwrite(0, bytes([number])) for number in range(5)))
        return (await file.pread(0, 1))[0]

    assert {run_simulated(main, seed) for seed in SEEDS} == set(range(5))


def test_same_seed_gives_the_same_accidents():
    async def main(loop):
        storage = MemoryStorage(loop.random, latency=0.01)
        file = await storage.create("f")
        await asyncio.gather(*(file.pwrite(n * 512, b"%d" % n * 512) for n in range(8)))
        return await content(storage.crash())

    for seed in SEEDS:
        assert run_simulated(main, seed) == run_simulated(main, seed)


def test_cancelled_write_runs_to_its_end():
    async def main(loop):
        storage = MemoryStorage(loop.random, latency=10)
        file = await storage.create("f")
        task = asyncio.create_task(file.pwrite(0, b"x"))
        await asyncio.sleep(0.0001)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        return await content(storage.killed())

    for seed in SEEDS:
        assert run_simulated(main, seed) == b"x"
