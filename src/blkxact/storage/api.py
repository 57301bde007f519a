"""What the layers above need of a file: the contract of ``os_file`` and of the tests' memory file.

Offsets and lengths are bytes. Every failure is an ``OSError`` with its errno. A read beyond the end
of the file gives zeroes; a write beyond it grows the file.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from blkxact.runtime.points import Points

from .errors import CopyError
from .file_hints import NO_HINTS, FileHints
from .scan import Run, different_runs, zero_runs

if TYPE_CHECKING:
    from blkxact.qapi.sockets import AnySocketAddress

MEMORY_PIECE = 1 << 20
"""Bytes that are read and written at a time where a copy must go through memory."""


@runtime_checkable
class StorageFile(Protocol):
    """One open file of the host.

    ``path`` names it in messages; ``read_only`` files raise ``OSError(EBADF)`` on writes.
    ``write_back`` says that a flush will come: what is copied may be on its way to the disk before.
    """

    path: str
    read_only: bool
    write_back: bool = True

    def size(self) -> int:
        """Return the length of the file."""

    def allocated_size(self) -> int:
        """Return the bytes that the file takes on its file system (``st_blocks`` * 512)."""

    async def pread(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Return exactly ``length`` bytes."""

    async def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``."""

    async def pwritev(self, offset: int, parts: list[bytes | bytearray | memoryview]) -> None:
        """Write the parts one after the other, with one call where the system has one."""
        await self.pwrite(offset, b"".join(parts))

    async def copy_from(
        self, offset: int, source: StorageFile, source_offset: int, length: int
    ) -> None:
        """Copy a range of another file with as few system calls and copies as the two allow.

        Raises ``CopyError`` so that the caller knows which side failed.
        """
        await copy_through_memory(self, offset, FileRange(source, source_offset, length))

    async def copy_runs(self, runs: list[tuple[int, FileRange]]) -> None:
        """Copy several ranges of other files, each to its offset; as ``copy_from``."""
        for offset, piece in runs:
            await self.copy_from(offset, piece.file, piece.offset, piece.length)

    async def write_zeroes(self, offset: int, length: int, *, may_unmap: bool = False) -> None:
        """Make the range read as zeroes; it stays allocated unless ``may_unmap``."""

    async def discard(self, offset: int, length: int) -> None:
        """Give the range back to the file system where possible; what it reads as is undefined."""

    async def truncate(self, length: int) -> None:
        """Set the length; a grown part reads as zeroes."""

    async def flush(self) -> None:
        """Return when all that was written before is on stable storage."""

    async def map(self, offset: int, length: int) -> list[tuple[int, int, bool]]:
        """Return ``(offset, length, is_data)`` runs that cover the range; a hole is not data.

        The part beyond the end of the file is a hole.
        """

    async def zero_runs(self, areas: Sequence[Area], unit: int) -> list[list[Run]]:
        """Return which blocks of ``unit`` bytes are zero in areas of any files (``scan``)."""
        return [
            zero_runs(bytes(await file.pread(offset, length)), unit, min(first, length))
            for file, offset, length, first in areas
        ]

    async def differences(self, pairs: Sequence[Pair], unit: int) -> list[list[Run]]:
        """Return which blocks of ``unit`` bytes differ in pairs of areas of any files."""
        return [
            different_runs(
                bytes(await file.pread(offset, length)),
                bytes(await other.pread(other_offset, length)),
                unit,
            )
            for file, offset, other, other_offset, length in pairs
        ]

    def lock(self, *, perm: int, shared: int) -> None:
        """Hold QEMU's byte-range locks for ``perm`` and for what ``shared`` leaves out.

        Called again, it changes what is held; ``perm=0, shared=ALL`` lets all go. The masks are
        ``block.types.Permission`` values. Raises ``OSError(EAGAIN)`` with ``LockConflict``.
        """

    async def close(self) -> None:
        """Let the locks and the descriptor go. A second call does nothing."""


class Storage(Protocol):
    """Where files come from: the host's file system, or a memory that can lose writes.

    Requests pass ``points`` (``storage.REQUEST``), which are those of the whole emulator.
    """

    points: Points

    @property
    def open_files(self) -> Collection[StorageFile]:
        """The files that were opened or created here and are not closed."""

    async def open(self, path: str, *, read_only: bool = False) -> StorageFile:
        """Open an existing file."""

    async def create(self, path: str, hints: FileHints = NO_HINTS) -> StorageFile:
        """Create the file, or empty it, and open it for writing."""

    def create_temporary(self, folder: str) -> str:
        """Create an empty file with a new name in ``folder``; return its path."""

    def exists(self, path: str) -> bool:
        """Return whether there is a file at ``path``."""

    def real_path(self, path: str) -> str | None:
        """Return the absolute path without symbolic links; None if there is nothing at ``path``."""

    def is_device(self, path: str) -> bool:
        """Return whether ``path`` is a device, which has a length that cannot be changed."""

    def unlink(self, path: str) -> None:
        """Remove the file."""


SocketAddress: TypeAlias = "AnySocketAddress"


class Network(Protocol):
    """Where connections to servers come from: the host's sockets, or a memory that can cut them."""

    async def connect(
        self, address: SocketAddress, factory: Callable[[], asyncio.BufferedProtocol]
    ) -> asyncio.Transport:
        """Connect to a server; raises ``QmpError``. A cancelled call leaves nothing open."""

    async def start_tls(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.BufferedProtocol,
        context: ssl.SSLContext,
        hostname: str | None,
    ) -> asyncio.Transport:
        """Return an encrypted transport for the same protocol.

        The server's certificate is checked against ``hostname``. Raises ``QmpError``; the
        connection is closed then.
        """


class FileRange:
    """A piece of a file that stands for its bytes: a write of it is a copy from that file.

    Where it goes to a file that reads as zeroes there, blocks of ``sparse`` bytes (0: none) that
    are zeroes may be left out.
    """

    __slots__ = ("file", "length", "offset", "sparse")

    def __init__(self, file: StorageFile, offset: int, length: int, sparse: int = 0) -> None:
        self.file = file
        self.offset = offset
        self.length = length
        self.sparse = sparse

    def __len__(self) -> int:
        return self.length


Area = tuple[StorageFile, int, int, int]
"""A file, an offset, a length, and the length of the first block (0: as long as the others)."""
Pair = tuple[StorageFile, int, StorageFile, int, int]
"""A file and an offset, another file and an offset, and a length."""
Buffer = bytes | bytearray | memoryview
Payload = Buffer | FileRange
"""What a write carries: bytes, or a range of a file that is never brought into Python."""


Runs = list[tuple[int, Payload]]
"""Payloads and the offsets that they are written to, in order."""


def payload_slice(payload: Payload, start: int, end: int) -> Payload:
    """Return the part of ``payload`` between two byte positions, without copying it."""
    if isinstance(payload, FileRange):
        return FileRange(payload.file, payload.offset + start, end - start)
    return memoryview(payload)[start:end]


async def payload_bytes(payload: Payload) -> Buffer:
    """Return the bytes of a payload, read from its file if need be. Raises ``OSError``."""
    if isinstance(payload, FileRange):
        return await payload.file.pread(payload.offset, payload.length)
    return payload


async def write_payload(file: StorageFile, offset: int, payload: Payload) -> None:
    """Write a payload of either kind to a file."""
    if isinstance(payload, FileRange):
        await file.copy_from(offset, payload.file, payload.offset, payload.length)
    else:
        await file.pwrite(offset, payload)


async def copy_through_memory(file: StorageFile, offset: int, source: FileRange) -> None:
    """Write a range of another file by reading it in pieces; raises ``CopyError``."""
    for done in range(0, source.length, MEMORY_PIECE):
        piece = min(MEMORY_PIECE, source.length - done)
        try:
            data = await source.file.pread(source.offset + done, piece)
        except OSError as error:
            raise CopyError(error, reading=True) from error
        try:
            await file.pwrite(offset + done, data)
        except OSError as error:
            raise CopyError(error, reading=False) from error
