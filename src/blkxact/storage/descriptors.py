"""File descriptors that clients have passed in: by name, and in numbered sets.

``getfd`` gives one a name. ``add-fd`` puts one into a set, and ``/dev/fdset/N`` as a file name
stands for a duplicate of one of the set that was opened for the wanted access.

Invariants:

* A set exists for as long as it has a descriptor, or a duplicate of one is open.
* A duplicate is closed by whoever opened it.
* When the last client has left, descriptors that nothing was opened from are closed.

QEMU's counterpart: ``monitor/misc.c`` (monitor_fdset_*), ``qemu_open_internal()`` in
``util/osdep.c``, socket_get_fd() in ``util/qemu-sockets.c``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from blkxact.errors import QmpError, os_error

from .errors import BadDescriptorSet

PREFIX: Final = "/dev/fdset/"
_MAX_SET: Final = 2**63 - 1


class _Descriptor(NamedTuple):
    fd: int
    opaque: str | None


class _Set:
    def __init__(self) -> None:
        self.descriptors: list[_Descriptor] = []
        self.duplicates: set[int] = set()


class Descriptors:
    """The descriptors of one emulator, which it owns."""

    def __init__(self) -> None:
        self._named: dict[str, int] = {}
        self._sets: dict[int, _Set] = {}

    # Named

    def name(self, name: str, fd: int) -> None:
        """Keep ``fd`` under a name; one that had the name is closed. Raises ``QmpError``."""
        if name[:1].isdigit():
            os.close(fd)
            raise QmpError("Parameter 'fdname' expects a name not starting with a digit")
        old = self._named.pop(name, None)
        if old is not None:
            os.close(old)
        self._named[name] = fd

    def take(self, name: str) -> int:
        """Return the descriptor of that name, which is the caller's now. Raises ``QmpError``."""
        if name not in self._named:
            raise QmpError(f"File descriptor named '{name}' has not been found")
        return self._named.pop(name)

    def take_socket(self, name: str) -> socket.socket:
        """Return the socket of that name, which is the caller's now. Raises ``QmpError``."""
        fd = self.take(name)
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.close(fd)
            raise QmpError(f"File descriptor '{name}' is not a socket")
        return socket.socket(fileno=fd)

    def close_named(self, name: str) -> None:
        """Close the descriptor of that name. Raises ``QmpError``."""
        if name not in self._named:
            raise _not_found(name)
        os.close(self._named.pop(name))

    # Sets

    def add(self, fd: int, number: int | None, opaque: str | None) -> int:
        """Put ``fd`` into a set, by default a new one; return its number. Raises ``QmpError``."""
        if number is not None and number < 0:
            os.close(fd)
            raise QmpError("Parameter 'fdset-id' expects a non-negative value")
        if number is None:
            number = next(free for free in range(_MAX_SET) if free not in self._sets)
        self._sets.setdefault(number, _Set()).descriptors.append(_Descriptor(fd, opaque))
        return number

    def remove(self, number: int, fd: int | None) -> None:
        """Close one descriptor of a set, or all. Raises ``QmpError``."""
        found = self._sets.get(number)
        chosen = [one for one in found.descriptors if fd in (None, one.fd)] if found else []
        if found is None or (fd is not None and not chosen):
            raise _not_found(f"fdset-id:{number}" + ("" if fd is None else f", fd:{fd}"))
        self._drop(number, chosen)

    def remove_unused(self) -> None:
        """Close the descriptors of all sets that nothing was opened from."""
        for number, found in list(self._sets.items()):
            if not found.duplicates:
                self._drop(number, found.descriptors)

    def describe(self) -> list[dict[str, object]]:
        """Return FdsetInfo of every set, the highest number first, as in QEMU."""
        return [
            {"fdset-id": number, "fds": [_describe(one) for one in found.descriptors]}
            for number, found in sorted(self._sets.items(), reverse=True)
        ]

    def open(self, path: str, flags: int) -> int:
        """Return a duplicate of a descriptor of the set with the access that ``flags`` want.

        Raises ``BadDescriptorSet``.
        """
        text = path.removeprefix(PREFIX)
        if not (text.isascii() and text.isdigit() and int(text) <= _MAX_SET):
            raise BadDescriptorSet(errno.EINVAL, f"Could not parse fdset {path}")
        found = self._sets.get(int(text))
        if found is None:
            raise _cannot_duplicate(path, flags, errno.ENOENT)
        for one in reversed(found.descriptors):
            mode = fcntl.fcntl(one.fd, fcntl.F_GETFL) & os.O_ACCMODE
            if mode == flags & os.O_ACCMODE:
                duplicate = fcntl.fcntl(one.fd, fcntl.F_DUPFD_CLOEXEC, 0)
                found.duplicates.add(duplicate)
                return duplicate
        raise _cannot_duplicate(path, flags, errno.EACCES)

    def close(self, duplicate: int) -> None:
        """Close what ``open`` returned."""
        os.close(duplicate)
        for number, found in list(self._sets.items()):
            if duplicate in found.duplicates:
                found.duplicates.discard(duplicate)
                self._drop(number, [])

    def names(self) -> list[str]:
        """Return the names, and the sets as file names."""
        return [*self._named, *(f"{PREFIX}{number}" for number in self._sets)]

    def close_all(self) -> None:
        """Close everything that clients have passed in (the emulator ends)."""
        for fd in self._all():
            os.close(fd)
        self._named.clear()
        self._sets.clear()

    def _all(self) -> Iterator[int]:
        yield from self._named.values()
        for found in self._sets.values():
            yield from (one.fd for one in found.descriptors)

    def _drop(self, number: int, chosen: list[_Descriptor]) -> None:
        found = self._sets[number]
        for one in chosen:
            os.close(one.fd)
        found.descriptors = [one for one in found.descriptors if one not in chosen]
        if not found.descriptors and not found.duplicates:
            del self._sets[number]


def _describe(one: _Descriptor) -> dict[str, object]:
    return {"fd": one.fd} | ({"opaque": one.opaque} if one.opaque is not None else {})


def _not_found(what: str) -> QmpError:
    return QmpError(f"File descriptor named '{what}' not found")


def _cannot_duplicate(path: str, flags: int, number: int) -> BadDescriptorSet:
    reason = os_error(number).strerror
    return BadDescriptorSet(
        number, f"Could not dup FD for {path} flags {flags & os.O_ACCMODE:x}: {reason}"
    )
