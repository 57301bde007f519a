"""Short copies that are neighbours in the target are made together, and nothing depends on it."""

from __future__ import annotations

import errno
import os

import pytest

from blkxact.storage.copy_range import PAGE, PIECE, RangeCopier, neighbours
from blkxact.storage.errors import CopyError
from blkxact.storage.room import Bytes

KIB = 1 << 10
SOURCES = 3
SIZE = 2 << 20
"""Of each source in bytes; a copy may go beyond it."""


@pytest.fixture(params=Bytes)
def kind(request, monkeypatch):
    monkeypatch.setattr("blkxact.storage.copy_range.kind_of_copies", lambda *_: request.param)
    return request.param


@pytest.fixture
def sources(image_dir, seeded):
    """Descriptors of files with random bytes, and these bytes."""
    held = [seeded.randbytes(SIZE) for _ in range(SOURCES)]
    fds = [os.open(image_dir / f"source{n}", os.O_RDWR | os.O_CREAT) for n in range(SOURCES)]
    for fd, data in zip(fds, held, strict=True):
        os.pwrite(fd, data, 0)
    yield fds, held
    for fd in fds:
        os.close(fd)


@pytest.fixture
def target(image_dir):
    fd = os.open(image_dir / "target", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def content(fd):
    return os.pread(fd, os.fstat(fd).st_size, 0)


@pytest.mark.parametrize("unit", [64 * KIB, PAGE, 1000, 1])
def test_copies_from_many_places_arrive(kind, sources, target, seeded, unit):
    """Neighbours and gaps, on pages and across them, and beyond the ends of the sources."""
    fds, held = sources
    copies, expected = [], bytearray()
    for _ in range(200):
        which = seeded.randrange(SOURCES)
        length = seeded.randint(1, 3) * unit
        start = seeded.randrange(0, SIZE + 4 * unit, unit)
        if seeded.random() < 0.1:
            expected += bytes(unit)
        copies.append((fds[which], start, len(expected), length))
        expected += held[which][start : start + length].ljust(length, b"\0")
    RangeCopier().copy_all(target, copies)
    assert content(target) == expected


def test_neighbours_of_several_files_are_written_at_once(sources, target, monkeypatch):
    monkeypatch.setattr("blkxact.storage.copy_range.kind_of_copies", lambda *_: Bytes.IN_MEMORY)
    fds, held = sources
    written = []
    real = os.splice

    def splice(source, into, count, **places):
        moved = real(source, into, count, **places)
        if into == target:
            written.append(moved)
        return moved

    monkeypatch.setattr(os, "splice", splice)
    unit = 64 * KIB
    copies = [(fds[n % SOURCES], n * unit, n * unit, unit) for n in range(12)]
    RangeCopier().copy_all(target, copies)
    assert written == [12 * unit]
    assert content(target) == b"".join(
        held[n % SOURCES][n * unit : (n + 1) * unit] for n in range(12)
    )


def test_group_never_holds_more_than_a_pipe_does():
    """A copy of a few bytes takes a page of the pipe, and two if it crosses pages."""
    copies = [(0, PAGE - 1 + n * PAGE, 2 * n, 2) for n in range(2 * PIECE // PAGE)]
    groups = list(neighbours(copies))
    assert [copy for group in groups for copy in group] == copies
    assert max(len(group) for group in groups) * 2 <= PIECE // PAGE


@pytest.mark.parametrize("nth", [0, 3, 8])
def test_what_the_pipe_refuses_is_copied_otherwise(sources, target, monkeypatch, nth):
    monkeypatch.setattr("blkxact.storage.copy_range.kind_of_copies", lambda *_: Bytes.WANT_ROOM)
    fds, held = sources
    real = os.splice
    calls = []

    def splice(*words, **places):
        calls.append(words)
        if len(calls) > nth:
            raise OSError(errno.EINVAL, "no")
        return real(*words, **places)

    monkeypatch.setattr(os, "splice", splice)
    copies = [(fds[0], n * 8192, n * 4096, 4096) for n in range(8)]
    RangeCopier().copy_all(target, copies)
    assert len(calls) == nth + 1
    assert content(target) == b"".join(held[0][n * 8192 :][:4096] for n in range(8))


@pytest.mark.parametrize("reading", [True, False])
def test_failure_says_which_side_failed(kind, sources, image_dir, monkeypatch, reading):
    """A descriptor that may not be read, or written, stands for a disk that fails."""
    fds, _ = sources
    wrong = os.open(image_dir / "wrong", (os.O_WRONLY if reading else os.O_RDONLY) | os.O_CREAT)
    good = os.open(image_dir / "good", os.O_RDWR | os.O_CREAT)
    source, target = (wrong, good) if reading else (fds[1], wrong)
    copies = [(fds[0], 0, 0, PAGE), (source, 0, PAGE, PAGE)]
    with pytest.raises(CopyError) as caught:
        RangeCopier().copy_all(target, copies)
    assert (caught.value.reading, caught.value.errno) == (reading, errno.EBADF)
    os.close(wrong)
    os.close(good)
