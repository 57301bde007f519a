"""Runs written together leave what single writes would; a failure gives back what was taken."""

from __future__ import annotations

import errno

import pytest

from blkxact.storage.api import FileRange

from .helpers import (
    assert_clean,
    assert_content,
    close_qcow2,
    create_qcow2,
    make_storage,
    open_qcow2,
)

KIB = 1024
SIZE = 8 << 20


async def images(tmp_path, cluster_size, **options):
    storage = make_storage()
    for name in ("together", "single"):
        await create_qcow2(storage, tmp_path / name, SIZE, cluster_size=cluster_size, **options)
    return storage


def random_runs(rng, unit):
    """Runs in order that do not overlap, of whole units and, now and then, of parts."""
    runs = []
    cursor = 0
    while (cursor := cursor + rng.randrange(6) * unit // rng.choice([1, 1, 1, 2])) < SIZE:
        length = min(rng.choice([unit, unit, 3 * unit, unit // 2]), SIZE - cursor)
        runs.append((cursor, rng.randbytes(length)))
        cursor += length
    return runs


@pytest.mark.qemu
@pytest.mark.parametrize("cluster_size", [4 * KIB, 64 * KIB, 512 * KIB])
@pytest.mark.parametrize("in_files", [False, True])
async def test_pwrite_runs_leaves_what_single_writes_leave(
    tmp_path, seeded, cluster_size, in_files
):
    storage = await images(tmp_path, cluster_size)
    together = await open_qcow2(storage, tmp_path / "together")
    single = await open_qcow2(storage, tmp_path / "single")
    content = bytearray(SIZE)
    data = await storage.create(str(tmp_path / "data"))
    for _ in range(4):
        runs = random_runs(seeded, max(cluster_size, 32 * KIB))
        for offset, payload in runs:
            await single.pwrite(offset, payload)
            content[offset : offset + len(payload)] = payload
        if in_files:
            await data.pwrite(0, content)
            runs = [(at, FileRange(data, at, len(payload))) for at, payload in runs]
        await together.pwrite_runs(runs)
        assert bytes(await together.pread(0, SIZE)) == bytes(content)
    await close_qcow2(together)
    await close_qcow2(single)
    await data.close()
    for name in ("together", "single"):
        assert_clean(tmp_path / name)
        assert_content(tmp_path / name, bytes(content))


@pytest.mark.qemu
async def test_pwrite_runs_failed_bytes_give_all_clusters_back(tmp_path):
    storage = await images(tmp_path, 64 * KIB)
    driver = await open_qcow2(storage, tmp_path / "together")
    child = driver.children["file"]
    write = child.pwrite_runs

    async def failing(runs):
        raise OSError(errno.ENOSPC, "full")

    child.pwrite_runs = failing
    runs = [(at, b"x" * 64 * KIB) for at in range(0, SIZE, 256 * KIB)]
    with pytest.raises(OSError, match="full"):
        await driver.pwrite_runs(runs)
    assert not any(await driver.pread(0, SIZE))
    child.pwrite_runs = write
    await driver.pwrite_runs(runs)
    assert bytes(await driver.pread(256 * KIB, 128 * KIB)) == b"x" * 64 * KIB + bytes(64 * KIB)
    await close_qcow2(driver)
    assert_clean(tmp_path / "together")


async def test_pwrite_runs_beyond_the_end_is_refused_and_changes_nothing(tmp_path):
    storage = await images(tmp_path, 64 * KIB)
    driver = await open_qcow2(storage, tmp_path / "together")
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pwrite_runs([(0, b"x" * 64 * KIB), (SIZE, b"x" * 64 * KIB)])
    assert not any(await driver.pread(0, SIZE))
    await close_qcow2(driver)
