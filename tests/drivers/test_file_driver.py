"""The driver ``file``: locks, growth, reopening, maps."""

# ruff: noqa: ASYNC240 - files and tools of the tests' own

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission, Status, WriteFlags
from blkxact.blockdev.blockdev import Blockdev
from blkxact.errors import QmpError
from blkxact.storage.api import FileRange
from blkxact.storage.os_file import OsStorage
from tests.environment import environment

P = Permission
KIB = 1 << 10
MIB = 1 << 20
READ_WRITE = P.CONSISTENT_READ | P.WRITE


class UnwritableStorage(OsStorage):
    """A file system that is mounted read-only."""

    def __init__(self, code=errno.EROFS):
        super().__init__()
        self.code = code

    async def open(self, path, *, read_only=False):
        if not read_only:
            raise OSError(self.code, os.strerror(self.code), path)
        return await super().open(path, read_only=True)


def new_blockdev(storage=None):
    return Blockdev(environment(storage))


@pytest.fixture
def path(image_dir):
    path = image_dir / "a.raw"
    path.write_bytes(bytes(MIB))
    return str(path)


async def file_node(blockdev, path, **more):
    return await blockdev.add({"driver": "file", "node-name": "f", "filename": path, **more})


def writer(blockdev, node, perm=READ_WRITE, shared=P.ALL):
    backend = BlockBackend(blockdev.graph, perm=perm, shared=shared)
    backend.insert(node)
    return backend


def refused(message):
    return pytest.raises(QmpError, match=f"^{message}$")


async def test_file_requests_reach_the_file(path):
    node = await file_node(new_blockdev(), path, discard="unmap")
    await node.pwrite(4096, b"x" * 8192)
    await node.pwrite_zeroes(4096, 4096)
    await node.flush()
    assert Path(path).read_bytes()[4096:12288] == bytes(4096) + b"x" * 4096
    await node.pdiscard(8192, 4096)
    assert bytes(await node.pread(8192, 4096)) in (bytes(4096), b"x" * 4096)


async def test_file_range_is_copied_without_its_bytes(path, image_dir):
    source_path = image_dir / "source"
    source_path.write_bytes(b"0123456789")
    source = await OsStorage().open(str(source_path), read_only=True)
    node = await file_node(new_blockdev(), path)
    await node.pwrite(100, FileRange(source, 2, 5))
    assert Path(path).read_bytes()[99:106] == b"\x0023456\x00"
    await source.close()


async def test_file_grows_for_a_parent_that_may_resize(path):
    blockdev = new_blockdev()
    node = await file_node(blockdev, path)
    guest = writer(blockdev, node, READ_WRITE | P.RESIZE)
    guest.write_beyond_end = True
    await guest.pwrite(MIB + 100, b"x")
    assert (node.length, Path(path).stat().st_size) == (MIB + 512, MIB + 101)
    await guest.pwrite_zeroes(2 * MIB, KIB)
    assert node.length == Path(path).stat().st_size == 2 * MIB + KIB


async def test_file_without_users_holds_no_lock(path):
    one, two = new_blockdev(), new_blockdev()
    idle = await file_node(one, path)
    writer(two, await file_node(two, path), shared=P.NONE)
    with refused('Failed to get "consistent read" lock'):
        writer(one, idle)


@pytest.mark.parametrize(
    ("perm", "shared", "message"),
    [
        (P.WRITE, P.ALL, 'Failed to get "write" lock'),
        (P.NONE, P.ALL & ~P.CONSISTENT_READ, 'Failed to get shared "consistent read" lock'),
    ],
)
async def test_file_locks_follow_permissions(path, perm, shared, message):
    one, two = new_blockdev(), new_blockdev()
    first = writer(one, await file_node(one, path), P.CONSISTENT_READ, P.CONSISTENT_READ)
    node = await file_node(two, path)
    with refused(message):
        writer(two, node, perm, shared)
    assert not node.parents
    first.set_permissions(P.NONE, P.ALL)
    writer(two, node, perm, shared)


async def test_file_with_locking_off_locks_nothing(path):
    one, two = new_blockdev(), new_blockdev()
    writer(one, await file_node(one, path), shared=P.NONE)
    guest = writer(two, await file_node(two, path, locking="off"))
    await guest.pwrite(0, b"x")
    assert await guest.pread(0, 1) == b"x"


async def test_file_is_unlocked_and_closed_with_its_node(path):
    one, two = new_blockdev(), new_blockdev()
    guest = writer(one, await file_node(one, path), shared=P.NONE)
    node = await file_node(two, path)
    with refused('Failed to get "consistent read" lock'):
        writer(two, node, shared=P.NONE)
    guest.close()
    await one.delete("f")
    writer(two, node, shared=P.NONE)


@pytest.mark.qemu
async def test_file_locks_keep_qemu_out_and_let_it_in_again(path):
    def qemu_io(command):
        tool = ["qemu-io", "-f", "raw", "-c", command, path]
        return subprocess.run(tool, capture_output=True, text=True, check=False, timeout=60)

    blockdev = new_blockdev()
    guest = writer(blockdev, await file_node(blockdev, path), shared=P.ALL & ~P.WRITE)
    assert 'Failed to get "write" lock' in qemu_io("write 0 512").stderr
    guest.set_permissions(P.NONE, P.ALL)
    assert qemu_io("write -P 7 0 512").returncode == 0
    assert await guest.pread(0, 2) == b"\7\7"


async def test_file_that_is_not_writable_is_refused_or_opened_read_only(path):
    with refused(f"Could not open '{path}': Read-only file system"):
        await file_node(new_blockdev(UnwritableStorage()), path)
    blockdev = new_blockdev(UnwritableStorage())
    node = await file_node(blockdev, path, **{"auto-read-only": True})
    assert (node.read_only, node.driver.file.read_only) == (False, True)
    writer(blockdev, node, P.CONSISTENT_READ)
    with refused(f"Could not open '{path}': Permission denied"):
        writer(blockdev, node)


async def test_file_is_not_opened_read_only_for_other_reasons(path):
    with refused(f"Could not open '{path}': Text file busy"):
        await file_node(
            new_blockdev(UnwritableStorage(errno.ETXTBSY)), path, **{"auto-read-only": True}
        )


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("nosuch", {}, "Could not open 'nosuch': No such file or directory"),
        ("", {}, "The 'file' block driver requires a file name"),
        ("/dev/null", {}, "'file' driver requires '/dev/null' to be a regular file"),
        ("/", {"read-only": True}, "'file' driver requires '/' to be a regular file"),
        (
            "x",
            {"aio": "native"},
            "aio=native was specified, but it requires cache.direct=on, which was not specified.",
        ),
    ],
)
async def test_file_that_is_none_is_refused_as_in_qemu(name, more, message):
    with refused(message):
        await file_node(new_blockdev(), name, **more)


async def test_file_without_flush_option_skips_the_disk(path, monkeypatch):
    node = await file_node(new_blockdev(), path, cache={"no-flush": True})
    assert not node.driver.file.write_back
    flushed = []
    monkeypatch.setattr(type(node.driver.file), "flush", flushed.append)
    await node.pwrite(0, b"x")
    await node.flush()
    assert flushed == []


@pytest.mark.parametrize("prealloc", ["off", "falloc", "full"])
async def test_file_truncate_sets_the_length(path, prealloc):
    node = await file_node(new_blockdev(), path)
    await node.truncate(2 * MIB, prealloc=prealloc)
    assert (node.length, Path(path).stat().st_size) == (2 * MIB, 2 * MIB)
    if prealloc != "off":
        assert node.driver.allocated_size() >= MIB


async def test_file_truncate_refuses_as_qemu(path):
    node = await file_node(new_blockdev(), path)
    with refused("Cannot use preallocation for shrinking files"):
        await node.truncate(KIB, prealloc="full")
    with refused("Unsupported preallocation mode: metadata"):
        await node.truncate(2 * MIB, prealloc="metadata")
    assert node.length == MIB


async def test_file_map_tells_holes_and_where_data_lies(image_dir):
    path = image_dir / "sparse"
    with path.open("wb") as file:
        file.truncate(3 * MIB)
        file.seek(MIB)
        file.write(b"x" * MIB)
    node = await file_node(new_blockdev(), str(path))
    extents = await node.block_status(0, node.length)
    file = node.driver.file
    assert [(e.offset, e.length, e.file, e.file_offset) for e in extents] == [
        (0, MIB, None, 0),
        (MIB, MIB, file, MIB),
        (2 * MIB, MIB, None, 0),
    ]
    zero, data = Status.ZERO | Status.ALLOCATED, Status.DATA | Status.ALLOCATED
    assert [e.status for e in extents] == [zero, data, zero]


@pytest.mark.qemu
async def test_file_map_equals_qemu_imgs(image_dir, qemu_img, seeded):
    path = image_dir / "sparse"
    with path.open("wb") as file:
        file.truncate(8 * MIB + 1000)
        for _ in range(20):
            file.seek(seeded.randrange(2000) * 4096)
            file.write(b"x" * 4096 * seeded.randint(1, 20))
    node = await file_node(new_blockdev(), str(path))
    ours = [
        {"start": e.offset, "length": e.length, "data": bool(e.status & Status.DATA)}
        for e in await node.block_status(0, node.length)
    ]
    theirs = json.loads(qemu_img("map", "--output=json", "-f", "raw", path))
    merged = []
    for run in theirs:
        if merged and merged[-1]["data"] == run["data"]:
            merged[-1]["length"] += run["length"]
        else:
            merged.append({key: run[key] for key in ("start", "length", "data")})
    assert ours == merged


async def test_file_zeroes_that_may_unmap_free_the_space(path):
    node = await file_node(new_blockdev(), path, discard="unmap")
    await node.pwrite(0, b"x" * MIB)
    await node.pwrite_zeroes(0, MIB, WriteFlags.MAY_UNMAP)
    assert node.driver.allocated_size() < MIB
    assert bytes(await node.pread(0, MIB)) == bytes(MIB)
