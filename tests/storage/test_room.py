"""Room for copies is asked for where it helps, and nothing depends on it."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from blkxact.storage import room
from blkxact.storage.copy_range import RangeCopier
from blkxact.storage.room import LEAST, Bytes, kind_of_copies, make_room

MIB = 1 << 20


@pytest.fixture
def asked(monkeypatch):
    """The ranges for which room was asked."""
    calls = []

    def fallocate(fd, mode, offset, length):
        calls.append((offset, length))
        return True

    monkeypatch.setattr(room, "try_fallocate", fallocate)
    return calls


@pytest.mark.parametrize(
    ("clone", "tells", "in_memory", "kind"),
    [
        (errno.EOPNOTSUPP, True, False, Bytes.WANT_ROOM),
        (errno.EXDEV, True, False, Bytes.WANT_ROOM),
        (errno.EOPNOTSUPP, False, True, Bytes.IN_MEMORY),
        (errno.EOPNOTSUPP, False, False, Bytes.SHARED),  # on a server, perhaps
        (errno.EINVAL, True, False, Bytes.SHARED),
        (errno.ENOTTY, True, False, Bytes.SHARED),  # an unknown request
        (0, True, False, Bytes.SHARED),
    ],
)
def test_only_bytes_that_get_blocks_of_their_own_want_room(
    files, monkeypatch, clone, tells, in_memory, kind
):
    def ioctl(*_):
        if clone:
            raise OSError(clone, "")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(room, "tells_what_is_cached", lambda _: tells)
    monkeypatch.setattr(room, "is_in_memory", lambda _: in_memory)
    assert kind_of_copies(*files) is kind


def test_asking_changes_neither_file(files):
    source, target = files
    os.pwrite(source, b"source", 0)
    os.pwrite(target, b"target", 0)
    kind_of_copies(source, target)
    assert (os.pread(source, 9, 0), os.pread(target, 9, 0)) == (b"source", b"target")


def test_neighbours_in_the_target_get_room_together(files, asked, monkeypatch):
    source, target = files
    monkeypatch.setattr("blkxact.storage.copy_range.kind_of_copies", lambda *_: Bytes.WANT_ROOM)
    os.pwrite(source, b"x" * (4 * LEAST), 0)
    copies = [(source, at * LEAST, (3 - at) * LEAST, LEAST) for at in (3, 2, 1)]
    RangeCopier().copy_all(target, [*copies, (source, 0, 9 * LEAST, LEAST - 1)])
    assert asked == [(0, 3 * LEAST)]
    assert os.pread(target, 3 * LEAST, 0) == b"x" * (3 * LEAST)


def test_room_is_not_asked_for_twice_where_there_can_be_none(files, asked, monkeypatch):
    monkeypatch.setattr(room, "try_fallocate", lambda *call: asked.append(call[2:]) or False)
    make_room(files[1], [(0, MIB), (MIB, MIB)])
    assert asked == [(0, MIB)]


def test_copies_are_made_without_room(files, monkeypatch):
    source, target = files

    def full(*_):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(room, "try_fallocate", full)
    monkeypatch.setattr("blkxact.storage.copy_range.kind_of_copies", lambda *_: Bytes.WANT_ROOM)
    os.pwrite(source, b"x" * MIB, 0)
    RangeCopier().copy_all(target, [(source, 0, 0, MIB)])
    assert os.pread(target, MIB, 0) == b"x" * MIB


def test_room_does_not_make_a_file_longer(files):
    _, target = files
    make_room(target, [(0, MIB)])
    assert os.fstat(target).st_size == 0
