"""What a file system is told about a new file, and what is said when it does not listen."""

import errno
import os
import struct

import pytest

from blkxact.storage import file_hints
from blkxact.storage.file_hints import DEFAULT_EXTENT_SIZE, FileHints

COPIED = 0x40
"""A flag that was set before and stays."""


@pytest.fixture
def file_system(monkeypatch):
    """Stand in for one that knows both; return the flags and attributes that it was given."""
    given = {}

    def ioctl(fd, request, data):
        assert fd == 3
        if request >> 30 == 1:  # _IOW
            given[chr(request >> 8 & 0xFF)] = data
        elif len(data) == 4:
            return struct.pack("=l", COPIED)
        return struct.pack("=5I8x", COPIED, 0, 7, 8, 9)

    monkeypatch.setattr(file_hints.fcntl, "ioctl", ioctl)
    return given


def test_file_is_made_one_without_copy_on_write(file_system):
    FileHints(nocow=True).give(3)
    assert struct.unpack("=l", file_system["f"]) == (COPIED | 0x00800000,)


@pytest.mark.parametrize(("size", "told"), [(None, DEFAULT_EXTENT_SIZE), (0, 0), (4096, 4096)])
def test_size_of_extents_is_told_and_nothing_else_changed(file_system, size, told):
    FileHints(extent_size=size).give(3)
    assert file_system == {"X": struct.pack("=5I8x", COPIED | 0x800, told, 7, 8, 9)}


@pytest.mark.parametrize(
    ("hints", "said"),
    [
        (FileHints(nocow=True), []),
        (FileHints(extent_size=0), []),
        (FileHints(extent_size=1), ["Failed to set extent size hint: Operation not supported"]),
    ],
)
def test_file_system_that_does_not_listen_is_no_error(monkeypatch, caplog, hints, said):
    def ioctl(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(file_hints.fcntl, "ioctl", ioctl)
    hints.give(3)
    assert [record.getMessage() for record in caplog.records] == said
