"""A storage in memory that locks as QEMU does, is slow, fails and crashes as a test wishes.

Invariants:

* As ``os_file``: a request that has begun runs to its end even if its task is cancelled; after a
  failed flush every later one of that open file fails.
* With ``latency`` each request takes up to so many virtual seconds before and after the moment at
  which it takes effect, so that requests overtake each other.
* ``crash`` and ``prefixes`` leave the storage as it is; they make new ones. ``journal`` has the
  fault model.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from blkxact.block.types import Permission
from blkxact.errors import os_error
from blkxact.runtime.points import Points
from blkxact.storage.api import Buffer, StorageFile
from blkxact.storage.errors import LockConflict, TornWriteError
from blkxact.storage.file_hints import NO_HINTS, FileHints
from blkxact.testing.faults import Faults

from .host_files import read_host_file, write_host_file
from .journal import Change, Journal, Kind
from .sparse import SparseBytes

T = TypeVar("T")

_LOCK_NAMES = (
    (Permission.CONSISTENT_READ, "consistent read"),
    (Permission.WRITE, "write"),
    (Permission.WRITE_UNCHANGED, "write unchanged"),
    (Permission.RESIZE, "resize"),
)


@dataclass(slots=True)
class _Inode:
    """A file, named or not, with those who have it open."""

    number: int
    content: SparseBytes = field(default_factory=SparseBytes)
    locks: dict[MemoryFile, tuple[Permission, Permission]] = field(default_factory=dict)
    """What each open file uses, and what it shares."""


class MemoryStorage:
    """Files in memory; implements ``Storage``. ``history`` makes ``prefixes`` possible."""

    def __init__(
        self,
        source: random.Random | None = None,
        *,
        latency: float | None = None,
        history: bool = False,
    ) -> None:
        self.random = source or random.Random(0)  # noqa: S311 - not for secrets
        self.latency = latency
        self.points = Points()
        self.faults = Faults(self.points)
        self.open_files: set[MemoryFile] = set()
        self.requests: dict[str, int] = {}
        """How often each operation was asked for."""
        self.journal = Journal(history=history)
        self._files: dict[str, _Inode] = {}
        self._inodes_made = 0

    # --- Storage

    async def open(self, path: str, *, read_only: bool = False) -> MemoryFile:
        """Open an existing file."""
        await self.reach("open", path=path)
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return MemoryFile(self, self._files[path], path, read_only=read_only)

    async def create(self, path: str, hints: FileHints = NO_HINTS) -> MemoryFile:
        """Create the file, or empty it under the locks, and open it for writing."""
        del hints
        await self.reach("create", path=path)
        inode, journal = self._inode(path), self.journal
        file = MemoryFile(self, inode, path, read_only=False)
        try:
            resize = Permission.RESIZE
            file.lock(perm=Permission.WRITE | resize, shared=Permission.ALL & ~resize)
            journal.complete(file.change(Change(inode.number, Kind.TRUNCATE, 0, 0)))
            file.lock(perm=Permission.NONE, shared=Permission.ALL)
        except OSError:
            await file.close()
            raise
        return file

    def create_temporary(self, folder: str) -> str:
        """Create an empty file; return its path."""
        path = f"{folder}/vl.{self._inodes_made:06}"
        self._inode(path)
        return path

    def exists(self, path: str) -> bool:
        """Return whether there is a file at ``path``."""
        return path in self._files

    def real_path(self, path: str) -> str | None:
        """Return the path itself: memory has no directories to be in, and no links."""
        return path if path in self._files else None

    def is_device(self, path: str) -> bool:
        """Return False: memory has no devices."""
        del path
        return False

    def unlink(self, path: str) -> None:
        """Remove the name; who has the file open keeps it."""
        self.points.hit("storage.unlink", path=path)
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        del self._files[path]
        self._note_names()

    # --- what a test does with it

    def paths(self) -> list[str]:
        """Return the names of all files."""
        return sorted(self._files)

    def load(self, path: str, data: Buffer | Path) -> None:
        """Put a file there, durably: these bytes, or those of a file of the host."""
        content = SparseBytes()
        if isinstance(data, Path):
            read_host_file(data, content)
        else:
            content.write(0, data)
        inode = self._inode(path)
        inode.content = content
        self.journal.disk.durable[inode.number] = content.copy()
        self.journal.checkpoint(self.journal.disk)

    def dump(self, path: str, host_path: Path) -> None:
        """Write a file to the host, sparsely."""
        write_host_file(self._files[path].content, host_path)

    def checkpoint(self) -> None:
        """Make all durable as it is, and begin the history here."""
        disk = self.journal.disk
        disk.pending.clear()
        for inode in self._files.values():
            disk.durable[inode.number] = inode.content.copy()
        self.journal.checkpoint(disk)

    def killed(self) -> MemoryStorage:
        """Return the storage as it is found after the process is killed now: all changes stay."""
        contents = {inode.number: inode.content.copy() for inode in self._files.values()}
        return self._reborn(self.journal.disk.names, contents)

    def crash(self, source: random.Random | None = None) -> MemoryStorage:
        """Return the storage as it is found after a power loss now."""
        disk = self.journal.disk
        return self._reborn(disk.names, disk.crashed(source or self.random))

    def crashes(self, source: random.Random | None = None) -> Iterator[MemoryStorage]:
        """Yield a storage for a power loss at each moment of the history."""
        for disk in self.journal.disks():
            yield self._reborn(disk.names, disk.crashed(source or self.random))

    def prefixes(self) -> Iterator[MemoryStorage]:
        """Yield a storage for each number of changes of the history that were made, in order."""
        for names, contents in self.journal.states():
            yield self._reborn(names, {file: each.copy() for file, each in contents.items()})

    async def reach(self, request: str, **facts: str | int) -> None:
        """Count a request, and let it pass its point; raises what a listener raises."""
        self.requests[request] = self.requests.get(request, 0) + 1
        await self.points.reach(f"storage.{request}", **facts)

    async def pause(self) -> None:
        """Let some virtual time pass, often very little."""
        if self.latency is not None and self.random.random() < 0.75:
            await asyncio.sleep(self.latency * self.random.random() ** 4)

    def _inode(self, path: str) -> _Inode:
        if path not in self._files:
            self._inodes_made += 1
            self._files[path] = _Inode(self._inodes_made)
            self._note_names()
        return self._files[path]

    def _note_names(self) -> None:
        self.journal.names({path: inode.number for path, inode in self._files.items()})

    def _reborn(self, names: dict[str, int], contents: dict[int, SparseBytes]) -> MemoryStorage:
        """Return a fresh storage with these contents, all durable."""
        storage = MemoryStorage(random.Random(self.random.random()), latency=self.latency)  # noqa: S311
        for path, number in names.items():
            storage._inode(path).content = contents[number]
        storage.checkpoint()
        return storage


class MemoryFile(StorageFile):
    """One open file of a ``MemoryStorage``."""

    def __init__(
        self, storage: MemoryStorage, inode: _Inode, path: str, *, read_only: bool
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._storage = storage
        self._inode: _Inode | None = inode
        self._flush_error: OSError | None = None
        storage.open_files.add(self)

    def size(self) -> int:
        """Return the length of the file."""
        return self._content().size

    def allocated_size(self) -> int:
        """Return the bytes that the file takes."""
        return self._content().allocated_size()

    async def pread(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; beyond the end they are zeroes."""
        return await self._request(
            "pread", lambda: self._content().read(offset, length), offset=offset, length=length
        )

    async def pwrite(self, offset: int, data: Buffer) -> None:
        """Write all of ``data``, as it is when the request takes effect."""
        length = len(data)

        def change() -> Change:
            return Change(self._number(), Kind.WRITE, offset, length, bytes(data))

        def tear() -> None:
            for part in change().torn(self._storage.random):
                self.change(part)

        await self._change_request(
            "pwrite", length, lambda: self.change(change()), tear, offset=offset, length=length
        )

    async def write_zeroes(self, offset: int, length: int, *, may_unmap: bool = False) -> None:
        """Make the range read as zeroes; it stays allocated unless ``may_unmap``."""
        kind = Kind.UNMAP if may_unmap else Kind.ZERO
        work = self._changing(kind, offset, length)
        await self._change_request("write_zeroes", length, work, offset=offset, length=length)

    async def discard(self, offset: int, length: int) -> None:
        """Punch a hole."""
        work = self._changing(Kind.PUNCH, offset, length)
        await self._change_request("discard", length, work, offset=offset, length=length)

    async def truncate(self, length: int) -> None:
        """Set the length; a grown part reads as zeroes."""
        await self._change_request(
            "truncate", 1, self._changing(Kind.TRUNCATE, 0, length), size=length
        )

    async def flush(self) -> None:
        """Make durable what was completed before."""
        journal = self._storage.journal
        if self._flush_error is not None:
            raise OSError(self._flush_error.errno, self._flush_error.strerror)
        numbers = journal.flushing(self._number())
        try:
            await self._request("flush", lambda: journal.flushed(numbers))
        except OSError as error:
            self._flush_error = error
            raise

    async def map(self, offset: int, length: int) -> list[tuple[int, int, bool]]:
        """Return ``(offset, length, is_data)`` runs that cover the range in order."""
        return await self._request(
            "map", lambda: self._content().map(offset, length), offset=offset, length=length
        )

    def lock(self, *, perm: int, shared: int) -> None:
        """Hold locks as QEMU does; raises ``LockConflict`` and changes nothing."""
        inode = self._opened()
        self._storage.points.hit("storage.lock", path=self.path)
        mine, shares = Permission(perm), Permission(shared)
        others = [locks for file, locks in inode.locks.items() if file is not self]
        for bit, name in _LOCK_NAMES:
            if mine & bit and any(not other_shares & bit for _, other_shares in others):
                raise LockConflict(errno.EAGAIN, f'Failed to get "{name}" lock', self.path)
        for bit, name in _LOCK_NAMES:
            if not shares & bit and any(other & bit for other, _ in others):
                raise LockConflict(errno.EAGAIN, f'Failed to get shared "{name}" lock', self.path)
        inode.locks[self] = (mine, shares)

    async def close(self) -> None:
        """Let the locks and the file go. A second call does nothing."""
        if self._inode is not None:
            self._inode.locks.pop(self, None)
            self._inode = None
            self._storage.open_files.discard(self)

    def change(self, change: Change) -> int:
        """Make a change, and take it down; return its number."""
        change.apply(self._content())
        return self._storage.journal.begin(change)

    def _changing(self, kind: Kind, offset: int, length: int) -> Callable[[], int]:
        return lambda: self.change(Change(self._number(), kind, offset, length))

    def _opened(self) -> _Inode:
        if self._inode is None:
            raise os_error(errno.EBADF)
        return self._inode

    def _content(self) -> SparseBytes:
        return self._opened().content

    def _number(self) -> int:
        return self._opened().number

    async def _change_request(
        self,
        name: str,
        length: int,
        work: Callable[[], int],
        tear: Callable[[], None] = lambda: None,
        /,
        **facts: int,
    ) -> None:
        """Make a request that changes the file. Once it has ended, flushes take it along."""
        self._opened()
        if self.read_only:
            raise os_error(errno.EBADF)
        if length > 0:
            await self._request(name, work, self._storage.journal.complete, tear, **facts)

    async def _request(
        self,
        name: str,
        work: Callable[[], T],
        finish: Callable[[T], None] = lambda _: None,
        tear: Callable[[], None] = lambda: None,
        **facts: int,
    ) -> T:
        """Do ``work`` at some moment of the request unless it fails at its point; ``finish`` it."""

        async def attempt() -> T:
            try:
                await self._storage.reach(name, path=self.path, **facts)
            except TornWriteError:
                tear()
                raise
            return work()

        self._opened()
        if self._storage.latency is None:
            result = await attempt()
            finish(result)
            return result
        task = asyncio.ensure_future(self._slowly(attempt, finish))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # taken notice of; the cancellation goes before it
            raise

    async def _slowly(self, attempt: Callable[[], Awaitable[T]], finish: Callable[[T], None]) -> T:
        await self._storage.pause()
        result = await attempt()
        await self._storage.pause()
        finish(result)
        return result
