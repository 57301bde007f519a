"""Files of the host: the one place where image data meets system calls.

A request of up to ``INLINE_LIMIT`` bytes is served on the event loop as far as it meets the page
cache (``page_cache``), where a hop to a thread costs several times the request. Larger ones, and
all that waits for a disk, run in a few threads; a large copy is cut into pieces, so that one job
does not hold a thread for long.

Invariants:

* A request that has begun runs to its end, even if its task is cancelled: the buffers and the range
  stay the request's own until the system is done with them.
* After a failed ``fdatasync`` the page cache cannot be trusted (Linux drops the dirty pages), so
  every later flush of that file fails with the same error, as QEMU's ``page_cache_inconsistent``.

QEMU's counterpart: ``block/file-posix.c``, ``util/thread-pool.c``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any

from blkxact.errors import os_error
from blkxact.runtime.points import Points

from .api import FileRange, StorageFile, copy_through_memory
from .copy_lane import CopyLane
from .copy_range import Copy, write_all
from .descriptors import PREFIX, Descriptors
from .errors import CopyError, TornWriteError, WriteProtected
from .file_hints import NO_HINTS, FileHints
from .holes import map_file, zero
from .libc import KEEP_SIZE, PUNCH_HOLE, try_fallocate
from .locks import ALL_PERMISSIONS, ImageLock
from .page_cache import PageCache
from .scanned_file import ScannedFile
from .temporary import create_temporary
from .workers import Workers

INLINE_LIMIT = 1 << 20
"""Bytes up to which what is cached is read and written on the loop itself: 0.1 ms."""

INLINE_CHANGE = 128 << 10
"""Bytes up to which ranges are copied and zeroed on the loop itself."""

COPY_PIECE = 16 << 20
"""Bytes that one thread copies before it lets others have a turn."""

REQUEST_BYTES = 32 << 10
"""What an inline request counts for besides its bytes, against ``TURN_BYTES``."""

MAX_IOV = 1024
"""IOV_MAX of Linux."""

_BLKROGET = 0x125E
"""Linux: whether a block device is read-only."""
_RESIZE = 8
_WRITE = 2


class OsStorage:
    """The host's file system; ``copy_processes`` is that of ``Workers``.

    ``descriptors`` is what ``/dev/fdset/N`` stands for.
    """

    def __init__(
        self,
        *,
        copy_processes: int | None = None,
        descriptors: Descriptors | None = None,
    ) -> None:
        self._descriptors = descriptors or Descriptors()
        self.points = Points()
        self.workers = Workers(copy_processes)
        self.open_files: set[OsFile] = set()
        self.file_type: type[OsFile] = OsFile

    async def open(self, path: str, *, read_only: bool = False) -> OsFile:
        """Open an existing file."""
        await self.points.reach("storage.open", path=path)
        flags = os.O_RDONLY if read_only else os.O_RDWR
        # O_NONBLOCK: a FIFO must not stop the loop; regular files ignore it.
        fd = self._open(path, flags | os.O_NONBLOCK)
        if not read_only and _is_write_protected(fd):
            self.close_descriptor(path, fd)
            raise WriteProtected
        return self.file_type(self, fd, path, read_only=read_only)

    async def create(self, path: str, hints: FileHints = NO_HINTS) -> OsFile:
        """Create the file, or empty it under the locks, and open it for writing.

        Raises ``LockConflict`` when another process uses it; it is left as it was.
        """
        await self.points.reach("storage.create", path=path)
        fd = self._open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK)
        file = self.file_type(self, fd, path, read_only=False)
        try:
            file.lock(perm=_WRITE | _RESIZE, shared=ALL_PERMISSIONS & ~_RESIZE)
            os.ftruncate(fd, 0)
            hints.give(fd)
            file.lock(perm=0, shared=ALL_PERMISSIONS)
        except OSError:
            await file.close()
            raise
        return file

    def _open(self, path: str, flags: int) -> int:
        if path.startswith(PREFIX):
            return self._descriptors.open(path, flags)
        return os.open(path, flags, 0o644)

    def close_descriptor(self, path: str, fd: int) -> None:
        """Close what was opened at ``path``."""
        if path.startswith(PREFIX):
            self._descriptors.close(fd)
        else:
            os.close(fd)

    create_temporary = staticmethod(create_temporary)

    def exists(self, path: str) -> bool:
        """Return whether there is a file at ``path``."""
        return os.path.exists(path)  # noqa: PTH110 - the path is a string all the way

    def real_path(self, path: str) -> str | None:
        """Return the absolute path without symbolic links; None if there is nothing at ``path``."""
        try:
            return os.path.realpath(path, strict=True)
        except OSError:
            return None

    def is_device(self, path: str) -> bool:
        """Return whether ``path`` is a block device."""
        return is_device(path)

    def unlink(self, path: str) -> None:
        """Remove the file."""
        self.points.hit("storage.unlink", path=path)
        os.unlink(path)  # noqa: PTH108 - the path is a string all the way

    def close(self) -> None:
        """End the threads and processes; a second call does nothing."""
        self.workers.close()


class OsFile(ScannedFile):
    """One open file of the host."""

    def __init__(self, storage: OsStorage, fd: int, path: str, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.fd = fd
        self._points = storage.points
        self._workers = storage.workers
        self._open_files = storage.open_files
        self._close_descriptor = partial(storage.close_descriptor, path)
        self._lock = ImageLock(fd, path)
        self._lane = CopyLane(storage.workers, fd)
        self.cache = PageCache(fd)
        self.write_back = True
        self._flush_error: OSError | None = None
        self._known_data = range(0)
        """Data without a hole, as far as this process has not made one; others' are no matter."""
        self._open_files.add(self)

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file (QEMU's ``file`` driver takes no other)."""
        return stat.S_ISREG(os.fstat(self.fd).st_mode)

    @property
    def is_device(self) -> bool:
        """Whether it is a block device (``host_device`` takes no other)."""
        return stat.S_ISBLK(os.fstat(self.fd).st_mode)

    def size(self) -> int:
        """Return the length of the file; raises ``OSError`` for one of /proc, which has none."""
        return os.lseek(self.fd, 0, os.SEEK_END)

    def allocated_size(self) -> int:
        """Return the bytes that the file takes on its file system."""
        return os.fstat(self.fd).st_blocks * 512

    def lock(self, *, perm: int, shared: int) -> None:
        """Hold QEMU's lock bytes for ``perm`` and ``shared``; raises ``LockConflict``."""
        self._points.hit("storage.lock", path=self.path)
        self._lock.change(perm=perm, shared=shared)

    async def pread(self, offset: int, length: int) -> bytes | bytearray:
        """Return exactly ``length`` bytes; beyond the end they are zeroes."""
        if self._points.listening:
            await self._pass("pread", offset=offset, length=length)
        data: bytes | bytearray = b""
        if length <= INLINE_LIMIT:
            data = self.cache.read(offset, length)
            if len(data) < length and offset + len(data) >= self.size():
                data = data.ljust(length, b"\0")
            if len(data) == length:
                self._workers.turn -= length + REQUEST_BYTES
                if self._workers.turn < 0:
                    await self._workers.yield_turn()
                return data
        return await self._workers.in_thread(_read_rest, self.fd, data, offset, length)

    async def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``."""
        length = len(data)
        if self._points.listening:
            await self._pass_write(offset, data)
        done = self.cache.write(offset, data) if length <= INLINE_LIMIT else 0
        if done == length:
            self._workers.turn -= length + REQUEST_BYTES
            if self._workers.turn < 0:
                await self._workers.yield_turn()
        else:
            rest = memoryview(data)[done:]
            await self._workers.in_thread(write_all, self.fd, rest, offset + done)

    async def pwritev(self, offset: int, parts: list[bytes | bytearray | memoryview]) -> None:
        """Write the parts one after the other."""
        if self._points.listening:
            await self._pass_write(offset, b"".join(parts))
        length = sum(map(len, parts))
        if length <= INLINE_LIMIT and self.cache.may_write(offset, length):
            _write_vector(self.fd, parts, offset)
        else:
            await self._workers.in_thread(_write_vector, self.fd, parts, offset)

    async def copy_from(
        self, offset: int, source: StorageFile, source_offset: int, length: int
    ) -> None:
        """Copy a range of another file; raises ``CopyError``."""
        if not isinstance(source, OsFile) or self._points.listening:
            await copy_through_memory(self, offset, FileRange(source, source_offset, length))
            return
        if self.read_only:
            raise CopyError(os_error(errno.EBADF), reading=False)
        if (
            length <= INLINE_CHANGE
            and source.cache.holds(source_offset, length)
            and self.cache.may_write(offset, length)
        ):
            self._workers.copier.copy(source.fd, source_offset, self.fd, offset, length)
            self._workers.turn -= length + REQUEST_BYTES
            if self._workers.turn < 0:
                await self._workers.yield_turn()
            return
        for done in range(0, length, COPY_PIECE):
            piece = min(COPY_PIECE, length - done)
            await self._copy([(source.fd, source_offset + done, offset + done, piece)])

    async def copy_runs(self, runs: list[tuple[int, FileRange]]) -> None:
        """Copy several ranges of other files in few turns of a thread; raises ``CopyError``."""
        copies: list[Copy] = []
        size = 0
        sparse = min((piece.sparse for _, piece in runs), default=0)
        for offset, piece in runs:
            source = piece.file
            simple = piece.length <= COPY_PIECE and not (self.read_only or self._points.listening)
            if not isinstance(source, OsFile) or not simple:
                await self.copy_from(offset, source, piece.offset, piece.length)
                continue
            if size + piece.length > COPY_PIECE:
                await self._copy(copies, sparse)
                copies, size = [], 0
            copies.append((source.fd, piece.offset, offset, piece.length))
            size += piece.length
        if copies:
            await self._copy(copies, sparse)

    async def _copy(self, copies: list[Copy], sparse: int = 0) -> None:
        await self._lane.copy(copies, sparse)
        if self.write_back:
            self._lane.start_writeback()

    async def write_zeroes(self, offset: int, length: int, *, may_unmap: bool = False) -> None:
        """Make the range read as zeroes; it stays allocated unless ``may_unmap``."""
        self._check_writable()
        if self._points.listening:
            await self._pass("write_zeroes", offset=offset, length=length)
        self._known_data = range(0)
        if length <= INLINE_CHANGE and self.cache.may_write(offset, length):
            zero(self.fd, offset, length, may_unmap)
        else:
            await self._workers.in_thread(zero, self.fd, offset, length, may_unmap)

    async def discard(self, offset: int, length: int) -> None:
        """Punch a hole where the file system can; elsewhere nothing happens."""
        self._check_writable()
        if self._points.listening:
            await self._pass("discard", offset=offset, length=length)
        self._known_data = range(0)
        if length > 0:
            await self._workers.in_thread(
                try_fallocate, self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length
            )

    async def truncate(self, length: int) -> None:
        """Set the length; a grown part reads as zeroes."""
        self._check_writable()
        if self._points.listening:
            await self._pass("truncate", size=length)
        self._known_data = range(0)
        os.ftruncate(self.fd, length)

    async def flush(self) -> None:
        """Return when all that was written before is on stable storage."""
        if self._flush_error is not None:
            raise OSError(self._flush_error.errno, self._flush_error.strerror)
        try:
            if self._points.listening:
                await self._pass("flush")
            await self._sync()
        except OSError as error:
            self._flush_error = error
            raise

    async def _sync(self) -> None:
        await self._workers.in_thread(os.fdatasync, self.fd)

    async def map(self, offset: int, length: int) -> list[tuple[int, int, bool]]:
        """Return ``(offset, length, is_data)`` runs that cover the range in order."""
        if self._points.listening:
            await self._pass("map", offset=offset, length=length)
        known = self._known_data
        if known.start <= offset and offset + length <= known.stop and length:
            return [(offset, length, True)]
        # tmpfs walks through all pages up to the next hole.
        runs, data = await self._workers.in_thread(map_file, self.fd, offset, length)
        if self._known_data is known:  # and no hole was made meanwhile
            self._known_data = data
        return runs

    async def close(self) -> None:
        """Let the locks and the descriptor go. A second call does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            await self._lane.idle()
            self._workers.copier.forget(fd)
            self._close_descriptor(fd)
            self._open_files.discard(self)

    def _pass(self, request: str, **facts: int) -> Coroutine[Any, Any, None]:
        return self._points.reach(f"storage.{request}", path=self.path, **facts)

    async def _pass_write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._pass("pwrite", offset=offset, length=len(data))
        except TornWriteError:
            os.pwrite(self.fd, memoryview(data)[: len(data) // 2], offset)
            raise

    def _check_writable(self) -> None:
        if self.read_only:
            raise os_error(errno.EBADF)


def is_device(path: str) -> bool:
    """Return whether ``path`` is a block device."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)  # noqa: PTH116 - the path is a string all the way
    except (OSError, ValueError):
        return False


def _is_write_protected(fd: int) -> bool:
    """Return whether a block device takes no writes although it could be opened for them."""
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return False
    answer = fcntl.ioctl(fd, _BLKROGET, bytes(4))
    return bool(int.from_bytes(answer, sys.byteorder))


def _read_rest(fd: int, data: bytes | bytearray, offset: int, length: int) -> bytes | bytearray:
    """Read on after ``data`` until ``length`` or the end of the file, then add zeroes."""
    parts: list[bytes | bytearray] = [data] if data else []
    done = len(data)
    while done < length:
        part = os.pread(fd, length - done, offset + done) or bytes(length - done)
        parts.append(part)
        done += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write_vector(fd: int, parts: list[bytes | bytearray | memoryview], offset: int) -> None:
    if len(parts) > MAX_IOV:
        write_all(fd, b"".join(parts), offset)
        return
    total = sum(map(len, parts))
    done = os.pwritev(fd, parts, offset)
    if done < total:
        write_all(fd, memoryview(b"".join(parts))[done:], offset + done)
