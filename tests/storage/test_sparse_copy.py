"""Copies that leave out zeroes: the target reads as the source, and has the holes it can have."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

from blkxact.storage import sparse_copy
from blkxact.storage.api import FileRange
from blkxact.storage.copy_range import LONG, Pipe, RangeCopier
from blkxact.storage.errors import CopyError
from blkxact.storage.room import Bytes
from blkxact.storage.sparse_copy import copy_data

KIB = 1 << 10
BUFFER = 64 * KIB


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch):
    monkeypatch.setattr(sparse_copy, "BUFFER", BUFFER)


class Copier(RangeCopier):
    """Notes what it is asked to copy."""

    def __init__(self):
        super().__init__()
        self.done = []

    def copy(self, source, source_offset, target, offset, length, *, pipe=None):
        self.done.append((offset, length))
        super().copy(source, source_offset, target, offset, length, pipe=pipe)


@pytest.mark.parametrize("unit", [512, 4 * KIB, 12 * KIB, 2 * BUFFER])
def test_copies_all_but_whole_blocks_of_zeroes(files, seeded, unit):
    source, target = files
    size = 8 * BUFFER
    data = bytearray(size)
    for _ in range(30):
        at, length = seeded.randrange(size), seeded.randrange(3 * unit)
        data[at : at + length] = seeded.randbytes(min(length, size - at))
    os.pwrite(source, data, 0)
    os.ftruncate(target, 2 * size)
    copier = Copier()
    copies, expected, at = [], bytearray(2 * size), 0
    while at < size:
        length = min(seeded.randrange(1, 3 * BUFFER), size - at)
        place = at + (size if seeded.random() < 0.5 else 0)
        copies.append((source, at, place, length))
        expected[place : place + length] = data[at : at + length]
        at += length
    copy_data(copier, target, copies, unit, threading.Lock())
    assert os.pread(target, 2 * size, 0) == expected
    for offset, length in copier.done:
        for block in range(-(-offset // unit) * unit, offset + length - unit + 1, unit):
            assert any(expected[block : block + unit])


def test_others_may_copy_while_it_looks(files, monkeypatch):
    source, target = files
    turn, looked = threading.Lock(), []
    os.pwrite(source, b"x" * BUFFER, 0)

    def fill(*_):
        looked.append(turn.locked())

    monkeypatch.setattr(sparse_copy, "fill", fill)
    copy_data(RangeCopier(), target, [(source, 0, 0, BUFFER)], KIB, turn)
    assert looked == [False]
    assert not turn.locked()


def test_failure_to_look_is_one_of_reading(files, monkeypatch):
    source, target = files

    def fill(*_):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(sparse_copy, "fill", fill)
    with pytest.raises(CopyError) as error:
        copy_data(RangeCopier(), target, [(source, 0, 0, 1)], KIB, threading.Lock())
    assert error.value.reading


async def test_file_leaves_zeroes_out_where_it_is_asked_to(storage, image_dir, monkeypatch):
    copier = Copier()
    monkeypatch.setattr(storage.workers, "copier", copier)
    source = await storage.create(str(image_dir / "source"))
    target = await storage.create(str(image_dir / "target"))
    await source.pwrite(0, bytes(BUFFER) + b"x" * BUFFER)
    whole = [(0, FileRange(source, 0, 2 * BUFFER, sparse)) for sparse in (4 * KIB, 0)]
    await target.copy_runs(whole[:1])
    assert copier.done == [(BUFFER, BUFFER)]
    await target.copy_runs(whole[1:])
    assert copier.done[1:] == [(0, 2 * BUFFER)]
    assert await target.pread(0, 2 * BUFFER) == bytes(BUFFER) + b"x" * BUFFER
    await asyncio.gather(source.close(), target.close())


# Through a pipe


def test_pipe_copies_up_to_the_end_of_the_source(files, seeded):
    source, target = files
    data = seeded.randbytes(3 * LONG)
    os.pwrite(source, data, 0)
    pipe = Pipe()
    assert pipe.copy(source, 5, target, 7, 4 * LONG) == 3 * LONG - 5
    pipe.close()
    assert os.pread(target, 4 * LONG, 7) == data[5:]


def test_pipe_that_failed_holds_nothing(files, monkeypatch):
    source, target = files
    os.pwrite(source, b"new", 0)
    pipe, real = Pipe(), os.splice

    def splice(*arguments, **offsets):
        if "offset_dst" in offsets:
            raise OSError(errno.ENOSPC, "full")
        return real(*arguments, **offsets)

    with monkeypatch.context() as patch:
        patch.setattr(os, "splice", splice)
        assert pipe.copy(source, 0, target, 0, 3) == 0
    assert pipe.copy(source, 0, target, 0, 3) == 3
    pipe.close()
    assert os.pread(target, 9, 0) == b"new"


@pytest.mark.parametrize("where", ["pipe", "fcntl", "splice"])
def test_long_copies_are_made_without_a_pipe(files, monkeypatch, where):
    source, target = files

    def refused(*_, **__):
        raise OSError(errno.EMFILE, "no")

    module = "fcntl.fcntl" if where == "fcntl" else f"os.{where}"
    monkeypatch.setattr(module, refused)
    monkeypatch.setattr("blkxact.storage.copy_range.kind_of_copies", lambda *_: Bytes.WANT_ROOM)
    os.pwrite(source, b"x" * LONG, 0)
    RangeCopier().copy_all(target, [(source, 0, 0, LONG)])
    assert os.pread(target, LONG, 0) == b"x" * LONG
