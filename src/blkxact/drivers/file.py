"""file: a file of the host as a protocol node.

Invariants:

* The locks on the file follow the permissions of the node's parents, so another process is refused
  exactly what a parent in this one would be (``locking: off`` holds none).
* The file grows when a parent that may resize writes beyond its end.
* With ``auto-read-only`` a file that cannot be written is opened read-only.

QEMU's counterpart: ``block/file-posix.c``; ``qapi/block-core.json`` (BlockdevOptionsFile).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from blkxact.block.driver_api import BlockDriver
from blkxact.block.open_context import OpenContext
from blkxact.block.types import Extent, Permission, Status, WriteFlags
from blkxact.enums import PreallocMode
from blkxact.errors import QmpError, strerror
from blkxact.storage.api import Buffer, FileRange, Payload, Runs, StorageFile, write_payload
from blkxact.storage.errors import LockConflict, OpenError

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsFile

DATA = Status.DATA | Status.ALLOCATED
HOLE = Status.ZERO | Status.ALLOCATED

NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""Why a file may be opened read-only instead, if the options allow it."""
FULL_STEP = 1 << 20
"""Bytes of zeroes in one write of a full preallocation."""
_DISCARD_STATS = ("discard-nb-ok", "discard-nb-failed", "discard-bytes-ok")
"""The counters of BlockStatsSpecificFile."""


class FileDriver(BlockDriver):
    """The driver ``file``. ``length`` is the file's, as far as this process has changed it."""

    format_name = "file"
    own_limits = MappingProxyType({"min-mem-alignment": 1})
    unmaps_zeroes = True
    is_protocol = True
    opens_plain_names = True
    is_identity_mapped = True
    strong_options = frozenset({"filename"})
    dirty_flag = False
    reopenable = frozenset({"drop-cache", "x-check-cache-dropped"})
    resettable = frozenset({"x-check-cache-dropped"})

    def __init__(
        self,
        context: OpenContext,
        children: Mapping[str, Child],
        file: StorageFile,
        *,
        locking: bool,
    ) -> None:
        super().__init__(context, children)
        self.file = file
        self.take_context(context)
        self.filename = file.path
        self.length = file.size()
        self._locking = locking
        self.specific_stats: dict[str, int] = dict.fromkeys(_DISCARD_STATS, 0)
        self._held = (Permission.NONE, Permission.ALL)

    @classmethod
    def parse_filename(cls, filename: str) -> dict[str, Any]:
        """Return the options that ``file:PATH`` or ``PATH`` stands for."""
        return {"driver": "file", "filename": filename.removeprefix("file:")}

    @classmethod
    def schema_options(cls, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raise ``QmpError`` without a filename."""
        if not members.get("filename"):
            raise QmpError(cls._no_filename())
        return members

    @classmethod
    def _no_filename(cls) -> str:
        return f"The '{cls.format_name}' block driver requires a file name"

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsFile, children: Mapping[str, Child]
    ) -> FileDriver:
        """Open ``filename``; raises ``QmpError``."""
        path = options.filename
        if not path:
            raise QmpError(cls._no_filename())
        if options.aio == "native":
            raise QmpError(
                "aio=native was specified, but it requires cache.direct=on, "
                "which was not specified."
            )
        file = await _open_file(context, path)
        wrong_kind = cls.refuse_kind(file)
        if wrong_kind is not None:
            await file.close()
            raise QmpError(f"'{cls.format_name}' driver requires '{path}' to be {wrong_kind}")
        try:
            file.size()
        except OSError as error:  # a file of /proc has no length
            await file.close()
            raise QmpError(f"Could not refresh total sector count: {strerror(error)}") from error
        return cls(context, children, file, locking=options.locking != "off")

    @classmethod
    def refuse_kind(cls, file: StorageFile) -> str | None:
        """Return what kind of file the driver requires if ``file`` is of another, else None."""
        return None if getattr(file, "is_regular", True) else "a regular file"

    async def close(self) -> None:
        """Close the file; its locks go with it."""
        await self.file.close()

    def take_context(self, context: OpenContext) -> None:
        """Write back in the background unless nobody wants it to last."""
        super().take_context(context)
        self.file.write_back = not context.no_flush

    async def activate_write(self) -> None:
        """Open the file again for writing, if it is not; raises ``QmpError``."""
        if self.file.read_only:
            await self._reopen(read_only=False)

    async def deactivate_write(self) -> None:
        """Open the file again read-only."""
        if not self.file.read_only:
            await self._reopen(read_only=True)

    async def invalidate_cache(self) -> None:
        """Learn how long the file is now."""
        self.length = self.file.size()

    async def _reopen(self, *, read_only: bool) -> None:
        try:
            file = await self.context.env.storage.open(self.file.path, read_only=read_only)
        except OSError as error:
            raise _cannot_open(self.file.path, error) from error
        old, self.file = self.file, file
        file.write_back = old.write_back
        # The new descriptor takes its locks when the old one's are gone: they would meet each
        # other as two processes do.
        await old.close()
        held, self._held = self._held, (Permission.NONE, Permission.ALL)
        self.apply_permissions(*held)

    def apply_permissions(self, perm: Permission, shared: Permission) -> None:
        """Hold the locks for the masks; raises ``QmpError`` if another process is in the way."""
        if perm & Permission.WRITE and self.file.read_only and not self.read_only:
            raise QmpError(f"Could not open '{self.file.path}': {os.strerror(errno.EACCES)}")
        if not self._locking or (perm, shared) == self._held:
            return
        try:
            self.file.lock(perm=int(perm), shared=int(shared))
        except LockConflict as conflict:
            raise QmpError(conflict.message) from conflict
        self._held = perm, shared

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read."""
        return await self.file.pread(offset, length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write; a range of another file is copied without coming into Python."""
        del flags
        await write_payload(self.file, offset, payload)
        end = offset + len(payload)
        self.length = max(self.length, end)

    async def pwrite_runs(self, runs: Runs) -> None:
        """Write; ranges of other files are copied in one go."""
        pieces = [(at, payload) for at, payload in runs if isinstance(payload, FileRange)]
        if len(pieces) < len(runs):
            await super().pwrite_runs(runs)
            return
        await self.file.copy_runs(pieces)
        self.length = max(self.length, *(at + piece.length for at, piece in pieces))

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Make zeroes by the file system's means."""
        await self.file.write_zeroes(offset, length, may_unmap=bool(flags & WriteFlags.MAY_UNMAP))
        self.length = max(self.length, offset + length)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Punch a hole where the file system can."""
        try:
            await self.file.discard(offset, length)
        except OSError:
            self.specific_stats["discard-nb-failed"] += 1
            raise
        self.specific_stats["discard-nb-ok"] += 1
        self.specific_stats["discard-bytes-ok"] += length

    async def flush(self) -> None:
        """Return when the file is on stable storage (with ``cache.no-flush``: at once)."""
        if not self.context.no_flush:
            await self.file.flush()

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return data, to be read at the same place of the file, and holes."""
        return [
            Extent(start, size, DATA, self.file, start) if data else Extent(start, size, HOLE)
            for start, size, data in await self.file.map(offset, length)
        ]

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Set the length; ``falloc`` and ``full`` allocate what is added."""
        try:
            await resize_file(self.file, length, prealloc)
        finally:
            self.length = self.file.size()

    def image_specific(self) -> dict[str, Any]:
        """Return that there is nothing to say of files but that they are."""
        return {"type": "file", "data": {}}

    def allocated_size(self) -> int:
        """Return the bytes that the file takes."""
        return self.file.allocated_size()


async def resize_file(file: StorageFile, length: int, prealloc: PreallocMode) -> None:
    """Set the length; ``falloc`` allocates what is added, ``full`` also writes zeroes there.

    Raises ``QmpError``; then the file is as long as it was, if that can be done.
    """
    old = file.size()
    if prealloc == PreallocMode.METADATA:
        raise QmpError(f"Unsupported preallocation mode: {prealloc}")
    if prealloc != PreallocMode.OFF and length < old:
        raise QmpError("Cannot use preallocation for shrinking files")
    failed = "resize file"
    try:
        await file.truncate(length)
        if prealloc == PreallocMode.FALLOC:
            failed = "preallocate new data"
            await file.write_zeroes(old, length - old)
        elif prealloc == PreallocMode.FULL:
            failed = "write zeros for preallocation"
            for offset in range(old, length, FULL_STEP):
                await file.pwrite(offset, bytes(min(FULL_STEP, length - offset)))
            failed = "flush file to disk"
            await file.flush()
    except OSError as error:
        with suppress(OSError):
            await file.truncate(old)
        raise QmpError(f"Could not {failed}: {strerror(error)}") from error


async def _open_file(context: OpenContext, path: str) -> StorageFile:
    try:
        return await context.env.storage.open(path, read_only=context.read_only)
    except OSError as error:
        fallback = context.auto_read_only and not context.read_only
        if not fallback or error.errno not in NOT_WRITABLE:
            raise _cannot_open(path, error) from error
    try:
        return await context.env.storage.open(path, read_only=True)
    except OSError as error:
        raise _cannot_open(path, error) from error


def _cannot_open(path: str, error: OSError) -> QmpError:
    if isinstance(error, OpenError):
        return QmpError(error.message)
    return QmpError(f"Could not open '{path}': {strerror(error)}")
