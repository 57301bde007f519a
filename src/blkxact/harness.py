"""What every program needs that runs an emulator to try a tool: ``kit`` and ``prove``.

The guest's disks, the way of the guest's requests, and the errors of the emulator itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission
from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError

DEVICE: Final = "virtio-blk-pci"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the guest: its node has the name ``name``, its device the id ``device``."""

    name: str
    """Of the disk and its node."""
    path: Path
    """Of its image."""
    size: int
    """In bytes."""
    format: str = "qcow2"
    model: str = DEVICE
    """The driver of its device."""

    @property
    def device(self) -> str:
        """The id of the guest's device."""
        return device_of(self.name)

    def blockdev(self) -> dict[str, Any]:
        """Return the arguments of blockdev-add."""
        file = {"driver": "file", "filename": str(self.path), "discard": "unmap"}
        return {
            "driver": self.format,
            "node-name": self.name,
            "file": file,
            "discard": "unmap",
        }

    def device_add(self) -> dict[str, Any]:
        """Return the arguments of device_add."""
        return {"driver": self.model, "id": self.device, "drive": self.name}


def device_of(disk: str) -> str:
    """Return the id of the guest's device for a disk."""
    return f"device-{disk}"


def backend_of(layer: BlockLayer, disk: str) -> BlockBackend:
    """Return the way to a disk: its device, or one of our own where there are no devices.

    Requests of the guest that go this way mark bitmaps, are held up while a node is drained, and
    wait in the caches of the format until a flush. Raises ``QmpError`` if there is no such disk.
    """
    for name in (device_of(disk), disk):
        found = layer.find_backend(name)
        if found is not None:
            return found
    node = layer.find_node(disk)
    backend = BlockBackend(
        layer.graph, qdev_id=disk, perm=Permission.WRITE | Permission.CONSISTENT_READ
    )
    backend.description = "the guest"
    backend.insert(node)
    layer.backends.append(backend)  # closed with the others
    return backend


def backend_at(layer: BlockLayer, path: Path) -> BlockBackend:
    """Return the device whose image is the file ``path``; raises ``QmpError``."""
    image = path.resolve()
    for backend in layer.backends:
        if backend.node is not None and Path(backend.node.filename).resolve() == image:
            return backend
    raise QmpError(f"no device has the image {path}")


class ErrorLog(logging.Handler):
    """Reports what the emulator logs as an error: as such it logs only bugs of its own."""

    def __init__(self, report: Callable[[str], None], thread: int | None = None) -> None:
        """``thread`` is the only one whose errors are reported; None: those of all are."""
        super().__init__(logging.ERROR)
        self._report = report
        self._thread = thread

    def begin(self) -> None:
        """Listen."""
        logging.getLogger("blkxact").addHandler(self)

    def end(self) -> None:
        """Stop listening."""
        logging.getLogger("blkxact").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Report one."""
        if self._thread in (None, record.thread):
            self._report(self.format(record))
