"""The guest: whoever uses the disks while the tool makes its backup.

Its requests go the way of a device's, so they mark bitmaps, are held up while a node is drained,
and wait in the caches of the format until a flush.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from blkxact.block.backend import BlockBackend
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.harness import backend_of

from .errors import KitError


class Guest:
    """Requests of the guest. Each returns when it is done and raises ``OSError`` if it failed."""

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def write(self, disk: str, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset`` of a disk."""
        self._request(disk, lambda backend: backend.pwrite(offset, data))

    def write_zeroes(self, disk: str, offset: int, length: int) -> None:
        """Write ``length`` zeroes at ``offset`` of a disk."""
        self._request(disk, lambda backend: backend.pwrite_zeroes(offset, length))

    def read(self, disk: str, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset`` of a disk."""
        read = self._request(disk, lambda backend: backend.pread(offset, length))
        assert isinstance(read, bytes | bytearray | memoryview)
        return bytes(read)

    def discard(self, disk: str, offset: int, length: int) -> None:
        """Discard ``length`` bytes at ``offset`` of a disk."""
        self._request(disk, lambda backend: backend.pdiscard(offset, length))

    def flush(self, disk: str) -> None:
        """Return when all that was written to a disk is durable."""
        self._request(disk, lambda backend: backend.flush())

    def _request(self, disk: str, request: Callable[[BlockBackend], Awaitable[object]]) -> object:
        async def run(layer: BlockLayer) -> object:
            return await request(find_disk(layer, disk))

        return self._call(run)


def find_disk(layer: BlockLayer, disk: str) -> BlockBackend:
    """Return the way to a disk; raises ``KitError``."""
    try:
        return backend_of(layer, disk)
    except QmpError:
        raise KitError(f"there is no disk {disk!r}") from None
