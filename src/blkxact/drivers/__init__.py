"""The drivers: formats, protocols and filters, each under its BlockdevDriver name.

A driver's module is imported when the first node needs it. The model of its options is in
``qapi/blockdev.py``; ``docs/adding-a-driver.md`` has all that a new one needs.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from blkxact.errors import QmpError

if TYPE_CHECKING:
    from blkxact.block.driver_api import BlockDriver

DRIVERS: Final = MappingProxyType(
    {
        "blkdebug": "blkdebug:BlkdebugDriver",
        "blklogwrites": "blklogwrites:BlklogwritesDriver",
        "blkverify": "blkverify:BlkverifyDriver",
        "compress": "compress:CompressDriver",
        "copy-before-write": "copy_before_write:CopyBeforeWriteDriver",
        "copy-on-read": "copy_on_read:CopyOnReadDriver",
        "file": "file:FileDriver",
        "host_device": "host_device:HostDeviceDriver",
        "nbd": "nbd.driver:NbdDriver",
        "null-aio": "null:NullAioDriver",
        "null-co": "null:NullDriver",
        "preallocate": "preallocate:PreallocateDriver",
        "qcow2": "qcow2.driver:Qcow2Driver",
        "quorum": "quorum:QuorumDriver",
        "raw": "raw:RawDriver",
        "snapshot-access": "snapshot_access:SnapshotAccessDriver",
        "throttle": "throttle:ThrottleDriver",
    }
)
"""BlockdevDriver to ``module:class``."""

PROTOCOLS: Final = MappingProxyType(
    {
        "blkdebug": "blkdebug",
        "blkverify": "blkverify",
        "file": "file",
        "host_device": "host_device",
        "nbd": "nbd",
        "nbd+tcp": "nbd",
        "nbd+unix": "nbd",
        "null-aio": "null-aio",
        "null-co": "null-co",
    }
)
"""What stands before the colon of a filename, to the driver that parses the filename."""


def find_driver(name: str) -> type[BlockDriver]:
    """Return the class of the driver; raises ``QmpError`` for a name that is not in ``DRIVERS``."""
    place = DRIVERS.get(name)
    if place is None:
        raise QmpError(f"Unknown driver '{name}'")
    module, _, class_name = place.partition(":")
    driver: type[BlockDriver] = getattr(import_module(f"{__name__}.{module}"), class_name)
    return driver
