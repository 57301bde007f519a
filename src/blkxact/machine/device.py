"""One device of the guest.

QEMU's counterpart: ``DeviceState`` in ``include/hw/qdev-core.h``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block.backend import BlockBackend
from blkxact.runtime.record import Record, made

from .models import DeviceModel

NAMED: Final = "peripheral"
ANONYMOUS: Final = "peripheral-anon"
OF_BOARD: Final = "unattached"
"""Where devices are: those with an id, those without, and those that the board has of itself."""


class Device(Record):
    """One device; a controller has no backend."""

    model: DeviceModel
    id: str | None
    name: str
    """Its name in the tree of objects: the id, or ``device[N]``."""
    properties: dict[str, Any] = made(factory=dict)
    """What was given, by wire name."""
    backend: BlockBackend | None = None
    buses: list[tuple[str, str]] = made(factory=list)
    bus: str | None = None
    """The bus that was named for it."""
    parent: str = ANONYMOUS
    """Where it is below ``/machine``; "": right there."""

    @property
    def path(self) -> str:
        """The path of the device in the tree of objects."""
        return "/".join(filter(None, ("/machine", self.parent, self.name)))

    @property
    def qdev(self) -> str:
        """What queries and messages call the user of the backend (``blk_get_attached_dev_id``)."""
        if self.model.virtio:
            return f"{self.path}/virtio-backend"
        return self.id or self.path
