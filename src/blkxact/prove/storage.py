"""The files of a case's emulator, and what a power failure makes of them.

Nothing loses power while a case runs, so what is flushed need not reach a disk: only files in the
tool's store are really synced, because the kernel is asked about those (``durable``). What a power
failure would leave behind is worked out from a journal of the changes and flushes, by the fault
model of ``blkxact.testing.journal``.

Invariants:

* Without a power failure to come nothing is written down.
* A file that is closed is no longer in the journal: whoever closes an image flushes it first.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final

from blkxact.block.types import Permission
from blkxact.storage.api import Buffer
from blkxact.storage.descriptors import Descriptors
from blkxact.storage.errors import LockConflict
from blkxact.storage.locks import ImageLock
from blkxact.storage.os_file import OsFile, OsStorage
from blkxact.testing.host_files import read_host_file, write_host_file
from blkxact.testing.journal import Change, Journal, Kind
from blkxact.testing.sparse import SparseBytes

from .durable import is_synced


class CaseStorage(OsStorage):
    """The host's file system; ``store`` is the directory in which files are really synced."""

    def __init__(self, descriptors: Descriptors, store: str, *, loses_power: bool) -> None:
        super().__init__(copy_processes=0, descriptors=descriptors)
        self.descriptors: Final = descriptors
        self._store = store + "/"
        self.file_type: type[OsFile] = _JournaledFile if loses_power else _CaseFile
        self.journal: Final = Journal()
        self._numbers: dict[str, int] = {}
        """Path to its number in the journal."""

    def is_stored(self, path: str) -> bool:
        """Return whether a file is the tool's."""
        return path.startswith(self._store)

    def number_of(self, path: str) -> int:
        """Return a file's number in the journal; what it holds when first asked for is durable."""
        if path not in self._numbers:
            number = self._numbers[path] = len(self._numbers) + 1
            content = SparseBytes()
            read_host_file(Path(path), content)
            self.journal.names({**self.journal.disk.names, path: number})
            self.journal.disk.durable[number] = content
        return self._numbers[path]

    def forget(self, path: str) -> None:
        """Note that a file is closed; if it is opened again, what it holds then is durable."""
        if any(file.path == path for file in self.open_files) or path not in self._numbers:
            return
        number = self._numbers[path]
        disk = self.journal.disk
        for change in [key for key, each in disk.pending.items() if each.file == number]:
            del disk.pending[change]
        disk.durable[number] = SparseBytes()
        del self._numbers[path]

    def lose_power(self, source: random.Random) -> list[str]:
        """Make of the files what a power failure now would; return the paths that it changed.

        Whoever calls this ends the process next.
        """
        pending = {change.file for change in self.journal.disk.pending.values()}
        contents = self.journal.disk.crashed(source)
        changed = []
        for path, number in self._numbers.items():
            synced = self.is_stored(path) and is_synced(Path(path))  # by the tool itself
            if number in pending and not synced:
                write_host_file(contents[number], Path(path))
                changed.append(path)
        return changed


class _CaseFile(OsFile):
    """A file of which flushes are not carried out unless it is the tool's."""

    def __init__(self, storage: OsStorage, fd: int, path: str, *, read_only: bool) -> None:
        assert isinstance(storage, CaseStorage)
        super().__init__(storage, fd, path, read_only=read_only)
        self._storage = storage

    async def _sync(self) -> None:
        if self._storage.is_stored(self.path):
            await super()._sync()


class _JournaledFile(_CaseFile):
    """A file whose changes and flushes are written down."""

    async def pwrite(self, offset: int, data: Buffer) -> None:
        """Write all of ``data``."""
        number = self._begin(Kind.WRITE, offset, len(data), bytes(data))
        await super().pwrite(offset, data)
        self._storage.journal.complete(number)

    async def pwritev(self, offset: int, parts: list[Buffer]) -> None:
        """Write the parts one after the other."""
        await self.pwrite(offset, b"".join(parts))

    async def write_zeroes(self, offset: int, length: int, *, may_unmap: bool = False) -> None:
        """Make the range read as zeroes."""
        number = self._begin(Kind.UNMAP if may_unmap else Kind.ZERO, offset, length)
        await super().write_zeroes(offset, length, may_unmap=may_unmap)
        self._storage.journal.complete(number)

    async def discard(self, offset: int, length: int) -> None:
        """Punch a hole."""
        number = self._begin(Kind.PUNCH, offset, length)
        await super().discard(offset, length)
        self._storage.journal.complete(number)

    async def truncate(self, length: int) -> None:
        """Set the length."""
        number = self._begin(Kind.TRUNCATE, 0, length)
        await super().truncate(length)
        self._storage.journal.complete(number)

    async def flush(self) -> None:
        """Note that all that was written before is on stable storage."""
        if self.read_only:
            await super().flush()
            return
        journal = self._storage.journal
        numbers = journal.flushing(self._storage.number_of(self.path))
        await super().flush()
        journal.flushed(numbers)

    async def close(self) -> None:
        """Let the file go."""
        await super().close()
        self._storage.forget(self.path)

    def _begin(self, kind: Kind, offset: int, length: int, data: bytes = b"") -> int:
        number = self._storage.number_of(self.path)
        return self._storage.journal.begin(Change(number, kind, offset, length, data))


def hold_lock(path: str) -> int | None:
    """Hold an image's lock, as another program that writes to it; return the descriptor.

    None: the image is in use already, or is none.
    """
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return None
    wanted = Permission.CONSISTENT_READ | Permission.WRITE
    try:
        ImageLock(fd, path).change(
            perm=int(wanted), shared=int(Permission.ALL & ~(Permission.WRITE | Permission.RESIZE))
        )
    except LockConflict:
        os.close(fd)
        return None
    return fd
