"""Scans of files: zeroes and differences are those that a look at every byte finds."""

from __future__ import annotations

import errno
import os

import pytest

from blkxact.storage import scan
from blkxact.storage.os_file import OsStorage
from blkxact.testing.memory_file import MemoryStorage


def patchy(rng, length, grain=64):
    """Return bytes with zeroes and data in them, both in runs of any length."""
    data = bytearray(length)
    at = 0
    while at < length:
        size = rng.randrange(1, grain)
        if rng.random() < 0.5:
            data[at : at + size] = rng.randbytes(size)[: length - at]
        at += size
    return bytes(data)


def blocks(length, unit, first):
    """Return the ``(start, stop)`` of all blocks."""
    first = min(first, length)
    return [(0, first)] * bool(first) + [
        (start, min(start + unit, length)) for start in range(first, length, unit)
    ]


def runs_of(flags):
    """Return the runs of ``(start, stop, flag)``, neighbours of one kind joined."""
    runs = []
    for start, stop, flag in flags:
        if runs and runs[-1][2] == flag:
            runs[-1] = (runs[-1][0], stop, flag)
        else:
            runs.append((start, stop, flag))
    return runs


def zeroes(data, unit, first=0):
    return runs_of(
        (start, stop, not any(data[start:stop])) for start, stop in blocks(len(data), unit, first)
    )


def test_zero_runs_are_those_of_a_look_at_each_block(seeded):
    for _ in range(300):
        data = patchy(seeded, seeded.randrange(400))
        unit = seeded.randrange(1, 40)
        first = seeded.randrange(min(unit, len(data)) + 1)
        assert scan.zero_runs(data, unit, first) == zeroes(data, unit, first)


def test_different_runs_are_those_of_a_look_at_each_block(seeded):
    for _ in range(300):
        mine = patchy(seeded, seeded.randrange(400))
        yours = bytearray(mine)
        for _ in range(seeded.randrange(4)):
            if yours:
                yours[seeded.randrange(len(yours))] ^= 1
        unit = seeded.randrange(1, 40)
        expected = runs_of(
            (start, stop, (mine[start:stop] != yours[start:stop], not any(mine[start:stop])))
            for start, stop in blocks(len(mine), unit, 0)
        )
        found = scan.different_runs(mine, bytes(yours), unit)
        assert found == [
            (start, stop, zero) for start, stop, (different, zero) in expected if different
        ]


@pytest.fixture
async def pair(tmp_path, seeded):
    """Two patchy files of the host, and the same in memory."""
    one = patchy(seeded, 2 * scan.CHUNK + 1000, 9000)
    two = bytearray(one)
    two[300_000:300_010] = b"0123456789"
    (tmp_path / "one").write_bytes(one)
    (tmp_path / "two").write_bytes(two)
    storage, memory = OsStorage(), MemoryStorage()
    files = []
    for name, data in (("one", one), ("two", two)):
        files.append(await storage.open(str(tmp_path / name)))
        files.append(await memory.create(name))
        await files[-1].pwrite(0, bytes(data))
    yield one, bytes(two), files
    for file in files:
        await file.close()
    storage.close()


async def test_files_are_scanned_for_zeroes_also_beyond_their_end(pair, seeded):
    one, _, (mine, mine_in_memory, _, _) = pair
    areas = [(0, len(one), 0), (len(one) - 700, 9000, 300), (len(one) + 5, 5000, 0), (7, 0, 0)]
    areas += [(seeded.randrange(9000), seeded.randrange(70_000), seeded.randrange(512))]
    padded = one + bytes(20_000)
    expected = [
        zeroes(padded[offset : offset + length], 512, first) for offset, length, first in areas
    ]
    for file in (mine, mine_in_memory):
        assert await file.zero_runs([(file, *area) for area in areas], 512) == expected


@pytest.mark.parametrize("unit", [512, 4096, 12 << 10, scan.CHUNK, 2 * scan.CHUNK])
async def test_units_may_be_larger_than_what_is_read_at_a_time(pair, unit):
    one, two, (mine, _, yours, _) = pair
    assert await mine.zero_runs([(mine, 0, len(one), 0)], unit) == [zeroes(one, unit)]
    [found] = await mine.differences([(mine, 0, yours, 0, len(one))], unit)
    assert found == scan.different_runs(one, two, unit)
    assert found


async def test_files_are_compared_as_in_memory(pair):
    one, two, (mine, mine_in_memory, yours, yours_in_memory) = pair
    pairs = [(0, 0, len(one)), (100, 100, 5000), (len(one) - 10, len(one), 4000), (3, 0, 300_000)]
    expected = await mine_in_memory.differences(
        [(mine_in_memory, at, yours_in_memory, other_at, size) for at, other_at, size in pairs],
        4096,
    )
    for other in (yours, yours_in_memory):
        places = [(mine, at, other, other_at, size) for at, other_at, size in pairs]
        assert await mine.differences(places, 4096) == expected
    assert [run[:2] for run in expected[0]] == [(299_008, 303_104)]
    assert expected[1] == []
    assert bool(expected[2]) == any(one[-10:])
    assert one != two


@pytest.mark.parametrize("unit", [scan.PROBED_UNIT, 65536])
async def test_blocks_that_begin_differently_are_found_as_in_memory(tmp_path, seeded, unit):
    """Whole chunks of such blocks, chunks with one that is alike or zero, and ends of files."""
    storage, memory = OsStorage(), MemoryStorage()
    length = 4 * scan.CHUNK + seeded.choice((0, 100, 700, unit))
    one, two = bytearray(b"\1" * length), bytearray(b"\2" * (length - seeded.randrange(unit)))
    for _ in range(3):  # alike, zero, and different only behind what is looked at first
        at = seeded.randrange(1, length // unit) * unit
        alike = two[at : at + unit].ljust(unit, b"\0")  # the file may end there
        one[at : at + unit] = seeded.choice((alike, bytes(unit)))
        one[at + unit - 1] = seeded.choice((0, one[at + unit - 1]))
    files = []
    for name, data in (("one", one), ("two", two)):
        (tmp_path / name).write_bytes(data)
        files += [await storage.open(str(tmp_path / name)), await memory.create(name)]
        await files[-1].pwrite(0, bytes(data))
    mine, mine_in_memory, yours, yours_in_memory = files
    areas = [(0, length), (unit, length), (100, 2 * scan.CHUNK + 5), (length - 300, unit)]
    expected = await mine_in_memory.differences(
        [(mine_in_memory, at, yours_in_memory, at, size) for at, size in areas], unit
    )
    assert await mine.differences([(mine, at, yours, at, s) for at, s in areas], unit) == expected
    for file in files:
        await file.close()
    storage.close()


async def test_blocks_that_begin_differently_are_not_read(tmp_path, monkeypatch):
    storage = OsStorage()
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * scan.CHUNK)
    one, two = [await storage.open(str(tmp_path / name)) for name in ("one", "two")]
    monkeypatch.setattr(scan, "fill", None)
    runs = [(0, 2 * scan.CHUNK, False)]
    assert await one.differences([(one, 0, two, 0, 2 * scan.CHUNK)], 65536) == [runs]
    await one.close()
    await two.close()
    storage.close()


def test_what_is_not_cached_is_fetched_in_one_go_from_there_on(tmp_path, monkeypatch):
    unit = 65536
    (tmp_path / "file").write_bytes((b"x" * unit + bytes(unit)) * 4)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    cached, preadv, fetched = 3 * unit, os.preadv, []

    def only_what_is_cached(fd, buffers, offset, flags=0):
        if flags and offset >= cached:
            raise BlockingIOError(errno.EAGAIN, "not cached")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(scan.os, "preadv", only_what_is_cached)
    monkeypatch.setattr(scan.os, "posix_fadvise", lambda *words: fetched.append(words))
    [runs] = scan.scan_zeroes([(fd, 0, 8 * unit, 0)], unit)
    assert runs == [(at * unit, (at + 1) * unit, at % 2 == 1) for at in range(8)]
    assert fetched == [(fd, cached, 5 * unit, os.POSIX_FADV_WILLNEED)]
    os.close(fd)


async def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    storage = OsStorage()
    (tmp_path / "file").write_bytes(b"x")
    file = await storage.open(str(tmp_path / "file"))
    os.close(file.fd)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        await file.zero_runs([(file, 0, 10, 0)], 512)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        await file.differences([(file, 0, file, 0, 10)], 512)
    file.fd = -1
    storage.close()
