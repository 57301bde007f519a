"""host_device: a block device of the host as a protocol node.

A device is a file whose length cannot be changed. A plain name that leads to a device means this
driver, as in QEMU. Character devices, which QEMU takes too, are refused.

QEMU's counterpart: ``bdrv_host_device`` in ``block/file-posix.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.enums import PreallocMode
from blkxact.errors import QmpError
from blkxact.storage.api import StorageFile

from .file import FileDriver

DISCARD_ALIGNMENT: Final = 4096
"""Bytes. Only whole blocks of a device can be discarded; none has larger logical blocks."""


class HostDeviceDriver(FileDriver):
    """The driver ``host_device``."""

    format_name = "host_device"
    holds_new_images = True

    @classmethod
    def parse_filename(cls, filename: str) -> dict[str, Any]:
        """Return the options that ``host_device:PATH`` stands for."""
        return {"driver": "host_device", "filename": filename.removeprefix("host_device:")}

    @classmethod
    def refuse_kind(cls, file: StorageFile) -> str | None:
        """Return what kind of file the driver requires if ``file`` is of another, else None."""
        if getattr(file, "is_device", False):
            return None
        return "either a character or block device"

    async def pdiscard(self, offset: int, length: int) -> None:
        """Give the whole blocks within the range back to the device."""
        start = -(-offset // DISCARD_ALIGNMENT) * DISCARD_ALIGNMENT
        end = (offset + length) // DISCARD_ALIGNMENT * DISCARD_ALIGNMENT
        if start < end:
            await super().pdiscard(start, end - start)

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Refuse any other length; raises ``QmpError``."""
        if prealloc != PreallocMode.OFF:
            raise QmpError(f"Preallocation mode '{prealloc}' unsupported for this non-regular file")
        if length != self.length:
            raise QmpError("Cannot resize device files")
