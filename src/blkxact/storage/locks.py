"""QEMU's image locks: byte-range locks on the image file, one byte for each permission.

Facts (``block/file-posix.c``): byte ``100 + i`` is locked by whoever *uses* permission ``i``,
byte ``200 + i`` by whoever does *not share* it. Both are shared ("read") OFD locks, so any number
of openers hold them; nobody ever takes an exclusive lock. An opener first takes its own bytes and
then asks whether anyone else holds the opposite ones: the order makes sure that of two openers at
the same time at least one sees the other.

Invariants: ``change`` either takes effect as a whole or leaves what was held before; locks belong
to the open file description, so closing it lets them go on every way out.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from .errors import LockConflict

PERMISSION_BASE = 100
UNSHARED_BASE = 200
ALL_PERMISSIONS = 15
PERMISSION_NAMES = ("consistent read", "write", "write unchanged", "resize")
"""As messages name them, by bit of ``block.types.Permission``."""

# struct flock of Linux on 64 bits: type, whence, start, length, pid (zero for OFD locks).
_FLOCK = struct.Struct("hhqqi4x")
# Python 3.11's fcntl has no names for these; the numbers are the same on every Linux.
_F_OFD_GETLK = 36
_F_OFD_SETLK = 37


def _set(fd: int, kind: int, byte: int) -> None:
    fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


def _held_by_another(fd: int, byte: int) -> bool:
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = fcntl.fcntl(fd, _F_OFD_GETLK, request)
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def _bytes_of(perm: int, unshared: int) -> set[int]:
    bits = range(len(PERMISSION_NAMES))
    used = {PERMISSION_BASE + bit for bit in bits if perm >> bit & 1}
    return used | {UNSHARED_BASE + bit for bit in bits if unshared >> bit & 1}


class ImageLock:
    """The lock bytes that one open file holds."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._held: set[int] = set()

    def change(self, *, perm: int, shared: int) -> None:
        """Hold exactly the bytes of ``perm`` and of what ``shared`` leaves out.

        Raises ``LockConflict`` (EAGAIN) when another opener is in the way; nothing changes then.
        """
        unshared = ALL_PERMISSIONS & ~shared
        wanted = _bytes_of(perm, unshared)
        before = set(self._held)
        if not wanted <= before:
            try:
                self._take(wanted - before)
                self._check(perm, unshared)
            except LockConflict:
                self._drop(self._held - before)
                raise
        self._drop(self._held - wanted)

    def _take(self, wanted: set[int]) -> None:
        for byte in sorted(wanted):
            try:
                _set(self._fd, fcntl.F_RDLCK, byte)
            except OSError as error:
                raise self._conflict(f"Failed to lock byte {byte}", error.errno) from error
            self._held.add(byte)

    def _drop(self, unwanted: set[int]) -> None:
        for byte in sorted(unwanted):
            _set(self._fd, fcntl.F_UNLCK, byte)
            self._held.discard(byte)

    def _check(self, perm: int, unshared: int) -> None:
        for bit, name in enumerate(PERMISSION_NAMES):
            if perm >> bit & 1 and _held_by_another(self._fd, UNSHARED_BASE + bit):
                raise self._conflict(f'Failed to get "{name}" lock')
        for bit, name in enumerate(PERMISSION_NAMES):
            if unshared >> bit & 1 and _held_by_another(self._fd, PERMISSION_BASE + bit):
                raise self._conflict(f'Failed to get shared "{name}" lock')

    def _conflict(self, message: str, number: int | None = errno.EAGAIN) -> LockConflict:
        # QEMU answers with EAGAIN whatever fcntl said (EACCES on some systems).
        if number in (errno.EACCES, None):
            number = errno.EAGAIN
        return LockConflict(number or errno.EAGAIN, message, self._path)
