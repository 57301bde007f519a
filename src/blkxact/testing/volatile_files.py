"""Files of the host that lose what was not flushed when the power fails, which is only pretended.

Nothing loses power while a test runs, so what is flushed need not reach a disk, which saves most of
the time that a small image takes. What a power failure would leave behind is worked out from a
journal of the changes and flushes, by the fault model of ``testing.journal``.

Invariants:

* Without a power failure to come nothing is written down.
* A file that is closed is no longer in the journal: whoever closes an image flushes it first.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from blkxact.storage.api import Buffer, StorageFile
from blkxact.storage.descriptors import Descriptors
from blkxact.storage.os_file import OsFile, OsStorage

from .host_files import read_host_file, write_host_file
from .journal import Change, Journal, Kind
from .sparse import SparseBytes


class VolatileStorage(OsStorage):
    """The host's file system, of one process that writes to it, without a copy process."""

    def __init__(self, descriptors: Descriptors, *, loses_power: bool) -> None:
        super().__init__(copy_processes=0, descriptors=descriptors)
        self.file_type: type[OsFile] = _JournaledFile if loses_power else _VolatileFile
        self.journal: Final = Journal()
        self._numbers: dict[str, int] = {}
        """Path to its number in the journal."""

    def is_really_synced(self, path: str) -> bool:
        """Return whether a flush of this file is carried out."""
        del path
        return False

    def is_safe(self, path: str) -> bool:
        """Return whether others have made all that a file holds durable."""
        del path
        return False

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

        Whoever calls this uses the storage no more.
        """
        pending = {change.file for change in self.journal.disk.pending.values()}
        contents = self.journal.disk.crashed(source)
        changed = []
        for path, number in self._numbers.items():
            if number in pending and not self.is_safe(path):
                write_host_file(contents[number], Path(path))
                changed.append(path)
        return changed


class _VolatileFile(OsFile):
    """A file of which flushes are carried out only where the storage says so."""

    def __init__(self, storage: OsStorage, fd: int, path: str, *, read_only: bool) -> None:
        assert isinstance(storage, VolatileStorage)
        super().__init__(storage, fd, path, read_only=read_only)
        self._storage = storage

    async def _sync(self) -> None:
        if self._storage.is_really_synced(self.path):
            await super()._sync()


class _JournaledFile(_VolatileFile):
    """A file whose changes and flushes are written down."""

    async def pwrite(self, offset: int, data: Buffer) -> None:
        """Write all of ``data``."""
        number = self._begin(Kind.WRITE, offset, len(data), bytes(data))
        await super().pwrite(offset, data)
        self._storage.journal.complete(number)

    # All that is written passes ``pwrite``, which writes it down.
    pwritev = StorageFile.pwritev
    copy_from = StorageFile.copy_from
    copy_runs = StorageFile.copy_runs

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
