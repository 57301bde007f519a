"""Requests to files pass the same points in the host's file system and in memory."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blkxact.block.types import Permission
from blkxact.storage.api import Storage
from blkxact.storage.errors import CopyError
from blkxact.storage.os_file import INLINE_LIMIT, OsStorage
from blkxact.testing.faults import Fault, Faults, Record
from blkxact.testing.memory_file import MemoryStorage

KIB = 1024


@pytest.fixture(params=["os", "memory"])
async def storage(request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    if request.param == "memory":
        yield MemoryStorage()
        return
    storage = OsStorage(copy_processes=0)
    yield storage
    storage.close()


async def test_every_request_passes_its_point(storage: Storage, image_dir: Path) -> None:
    path = str(image_dir / "f")
    record = Record(storage.points)
    file = await storage.create(path)
    file.lock(perm=int(Permission.WRITE), shared=int(Permission.ALL))
    await file.truncate(64 * KIB)
    await file.pwrite(4 * KIB, b"x" * KIB)
    await file.pwritev(8 * KIB, [b"y" * KIB, b"z" * KIB])
    await file.pread(4 * KIB, KIB)
    await file.write_zeroes(0, KIB)
    await file.discard(0, 4 * KIB)
    await file.map(0, 64 * KIB)
    await file.flush()
    await file.close()
    file = await storage.open(path, read_only=True)
    await file.close()
    storage.unlink(path)
    requests = ["create", "lock", "lock", "lock", "truncate", "pwrite", "pwrite", "pread"]
    requests += ["write_zeroes", "discard", "map", "flush", "open", "unlink"]
    passed = [each.point.removeprefix("storage.") for each in record.passings]
    if isinstance(storage, OsStorage):  # the lock of ``create`` is none of its callers'
        requests = [each for each in requests if each != "lock"]
        passed = [each for each in passed if each != "lock"]
    assert passed == requests
    facts = {each.point: each.facts for each in record.passings}
    assert facts["storage.pwrite"] == {"path": path, "offset": 8 * KIB, "length": 2 * KIB}
    assert facts["storage.truncate"] == {"path": path, "size": 64 * KIB}


@pytest.mark.parametrize("length", [KIB, 2 * INLINE_LIMIT])
@pytest.mark.parametrize("side", ["source", "target"])
async def test_copy_that_somebody_listens_to_is_a_read_and_a_write(
    storage: Storage, image_dir: Path, length: int, side: str
) -> None:
    paths = {name: str(image_dir / name) for name in ("source", "target")}
    source, target = [await storage.create(path) for path in paths.values()]
    await source.pwrite(0, b"s" * length)
    request = "pread" if side == "source" else "pwrite"
    Faults(storage.points).add(Fault(f"storage.{request}", errno.EIO, {"path": paths[side]}))
    with pytest.raises(CopyError) as caught:
        await target.copy_from(0, source, 0, length)
    assert caught.value.reading is (side == "source")
    await target.copy_from(0, source, 0, length)
    assert bytes(await target.pread(0, length)) == b"s" * length
    for file in (source, target):
        await file.close()


async def use(storage: Storage, path: str, *, create: bool) -> None:
    file = await (storage.create(path) if create else storage.open(path))
    try:
        await file.pwrite(0, b"x")
        await file.truncate(0)
        await file.flush()
    finally:
        await file.close()


@pytest.mark.parametrize("request_name", ["open", "create", "pwrite", "flush", "truncate"])
async def test_request_fails_where_a_fault_is_ordered(
    storage: Storage, image_dir: Path, request_name: str
) -> None:
    path = str(image_dir / "f")
    await (await storage.create(path)).close()
    faults = Faults(storage.points)
    faults.add(Fault(f"storage.{request_name}", errno.ENOSPC))
    with pytest.raises(OSError, match="No space left") as caught:
        await use(storage, path, create=request_name == "create")
    assert caught.value.errno == errno.ENOSPC
    faults.clear()


async def test_torn_write_leaves_a_part(storage: Storage, image_dir: Path) -> None:
    file = await storage.create(str(image_dir / "f"))
    await file.pwrite(0, bytes(64 * KIB))
    Faults(storage.points).add(Fault("storage.pwrite", errno.EIO, partial=True))
    with pytest.raises(OSError, match="Input/output error"):
        await file.pwrite(0, b"x" * 64 * KIB)
    assert 0 <= bytes(await file.pread(0, 64 * KIB)).count(b"x") < 64 * KIB
    await file.close()


async def test_request_waits_where_a_listener_holds_it(storage: Storage, image_dir: Path) -> None:
    there, go = asyncio.Event(), asyncio.Event()

    async def hold(_name: str, _facts: object) -> None:
        there.set()
        await go.wait()

    file = await storage.create(str(image_dir / "f"))
    storage.points.listen("storage.pwrite", hold)
    async with asyncio.timeout(20):
        writing = asyncio.create_task(file.pwrite(0, b"x"))
        await there.wait()
        assert bytes(await file.pread(0, 1)) == b"\0"
        go.set()
        await writing
    assert bytes(await file.pread(0, 1)) == b"x"
    await file.close()
