"""What a power failure makes of the files of a case, and a lock that another program holds."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from blkxact.block.types import Permission
from blkxact.prove.durable import is_synced, is_unsynced
from blkxact.prove.storage import CaseStorage, hold_lock
from blkxact.storage.descriptors import Descriptors
from blkxact.storage.errors import LockConflict

SECTOR = 512
OLD, NEW = b"o" * 64 * SECTOR, b"n" * 64 * SECTOR


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "vda.raw"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[CaseStorage]:
    storage = CaseStorage(Descriptors(), str(tmp_path / "store"), loses_power=True)
    yield storage
    storage.close()


def lose_power(storage: CaseStorage, path: Path, seed: int) -> bytes:
    """Return what the file would hold after a power failure; leave it as it is."""
    before = path.read_bytes()
    storage.lose_power(random.Random(seed))
    try:
        return path.read_bytes()
    finally:
        path.write_bytes(before)


async def test_what_was_flushed_survives(storage: CaseStorage, path: Path):
    file = await storage.open(str(path))
    await file.pwrite(0, NEW)
    await file.flush()
    assert {lose_power(storage, path, seed) for seed in range(20)} == {NEW}
    await file.close()


async def test_what_was_not_flushed_is_there_or_lost_or_torn(storage: CaseStorage, path: Path):
    file = await storage.open(str(path))
    await file.pwrite(0, NEW)
    found = [lose_power(storage, path, seed) for seed in range(40)]
    assert {OLD, NEW} < set(found)
    for held in found:
        sectors = {held[at : at + SECTOR] for at in range(0, len(held), SECTOR)}
        assert sectors <= {OLD[:SECTOR], NEW[:SECTOR]}, "sectors are whole"
    assert found == [lose_power(storage, path, seed) for seed in range(40)], "the seed decides"
    await file.close()


async def test_flush_that_failed_makes_nothing_durable(storage: CaseStorage, path: Path):
    file = await storage.open(str(path))
    await file.pwrite(0, NEW)

    def fail(_name: str, _facts: object) -> None:
        raise OSError(5, "Input/output error")

    storage.points.listen("storage.flush", fail)
    with pytest.raises(OSError, match="Input/output"):
        await file.flush()
    assert OLD in {lose_power(storage, path, seed) for seed in range(40)}
    await file.close()


async def test_length_zeroes_and_holes_are_changes_like_others(storage: CaseStorage, path: Path):
    file = await storage.open(str(path))
    await file.pwritev(0, [NEW[:SECTOR], NEW[SECTOR:]])
    await file.flush()
    await file.truncate(2 * len(NEW))
    await file.write_zeroes(0, SECTOR)
    await file.discard(SECTOR, SECTOR)
    found = {lose_power(storage, path, seed) for seed in range(60)}
    assert {len(held) for held in found} == {len(NEW), 2 * len(NEW)}
    assert {held[0] for held in found} == {held[SECTOR] for held in found} == {0, ord("n")}
    await file.close()


async def test_what_a_closed_file_holds_is_durable(storage: CaseStorage, path: Path):
    file = await storage.open(str(path))
    await file.pwrite(0, NEW)
    await file.close()
    again = await storage.open(str(path))
    assert {lose_power(storage, path, seed) for seed in range(20)} == {NEW}
    await again.pwrite(0, OLD)
    assert {OLD, NEW} <= {lose_power(storage, path, seed) for seed in range(40)}
    await again.close()


async def test_file_of_the_tool_that_the_tool_synced_loses_nothing(
    storage: CaseStorage, tmp_path: Path
):
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "target"
    path.write_bytes(OLD)
    file = await storage.open(str(path))
    await file.pwrite(0, NEW)
    if not is_unsynced(path):
        pytest.skip("the file system does not say what is durable")
    assert storage.lose_power(random.Random(0)) == [str(path)]
    path.write_bytes(NEW)
    os.sync()
    assert is_synced(path)
    assert storage.lose_power(random.Random(0)) == []
    await file.close()


async def test_lock_of_another_program_is_in_the_way_until_it_is_released(
    storage: CaseStorage, path: Path
):
    held = hold_lock(str(path))
    assert held is not None
    assert hold_lock(str(path)) is None, "it is in use already"
    file = await storage.open(str(path))
    with pytest.raises(LockConflict, match='Failed to get "write" lock'):
        file.lock(perm=int(Permission.WRITE), shared=int(Permission.ALL))
    os.close(held)
    file.lock(perm=int(Permission.WRITE), shared=int(Permission.ALL & ~Permission.WRITE))
    assert hold_lock(str(path)) is None, "the emulator uses it"
    await file.close()


def test_lock_of_what_is_no_file_is_not_held(tmp_path: Path):
    assert hold_lock(str(tmp_path / "none")) is None
