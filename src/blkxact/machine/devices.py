"""The guest's devices: what a disk is plugged into, as far as the block layer can tell.

There is no guest. A device is a backend with an id, the permissions a real one would take, and an
error policy; controllers are only names.

QEMU's counterpart: ``softmmu/qdev-monitor.c``, ``hw/block/block.c``,
``hw/core/qdev-properties-system.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from blkxact.block.backend import BlockBackend
from blkxact.block.drain import drained
from blkxact.block.driver_api import Permission
from blkxact.block.graph import Graph
from blkxact.errors import QmpError, device_not_found

CONTROLLERS: Final = frozenset(
    {"virtio-scsi", "virtio-scsi-pci", "virtio-scsi-ccw", "pci-bridge", "ahci", "usb-ehci"}
)
_VIRTIO: Final = frozenset({"virtio-blk", "virtio-blk-pci", "virtio-blk-ccw"})
DISKS: Final = frozenset({"scsi-hd", "ide-hd", "nvme", "usb-storage", "floppy"}) | _VIRTIO
CDROMS: Final = frozenset({"scsi-cd", "ide-cd"})

_PARENTS: Final = frozenset({"", "peripheral", "/machine/peripheral"})
_PROPERTIES: Final = frozenset({"share-rw", "write-cache", "rerror", "werror"})
"""Besides ``drive``; a device takes them when it is plugged in."""
_SWITCHES: Final = {True: True, False: False, "on": True, "off": False}


@dataclass(slots=True)
class Device:
    """One device; a controller has no backend."""

    driver: str
    id: str | None
    backend: BlockBackend | None


class Devices:
    """The devices of one emulator. ``backends`` is the list that queries show."""

    def __init__(self, graph: Graph, backends: list[BlockBackend]) -> None:
        self._graph = graph
        self._backends = backends
        self._devices: list[Device] = []
        self._anonymous = 0

    def add(self, driver: str, device_id: str | None, options: Mapping[str, Any]) -> None:
        """Plug a device in (device_add).

        ``options`` are its properties: ``drive`` (a drive or a node), ``share-rw``,
        ``write-cache``, ``rerror``, ``werror``. Raises ``QmpError``.
        """
        if driver not in CONTROLLERS | DISKS | CDROMS:
            raise QmpError(f"'{driver}' is not a valid device model name")
        if device_id is not None and any(device.id == device_id for device in self._devices):
            raise QmpError(f"Duplicate device ID '{device_id}'")
        backend = None
        if driver not in CONTROLLERS:
            backend = self._plug(driver, device_id, options)
        self._devices.append(Device(driver, device_id, backend))

    def _plug(self, driver: str, device_id: str | None, options: Mapping[str, Any]) -> BlockBackend:
        removable = driver in CDROMS
        backend = self._find_backend(driver, options.get("drive"), removable=removable)
        backend.qdev_id = device_id
        backend.qdev_path = self._path(driver, device_id)
        try:
            backend.set_permissions(*device_permissions(backend, options, removable=removable))
            self._insert(backend, options.get("drive"))
        except QmpError:
            backend.qdev_id = backend.qdev_path = None
            raise
        backend.removable = removable
        # What the device does not say ("auto") is as the drive has it.
        if options.get("rerror", "auto") != "auto":
            backend.on_read_error = options["rerror"]
        if options.get("werror", "auto") != "auto":
            backend.on_write_error = options["werror"]
        if options.get("write-cache", "auto") != "auto":
            backend.write_cache = _SWITCHES.get(options["write-cache"], True)
        if backend not in self._backends:
            self._backends.append(backend)
        return backend

    def _find_backend(self, driver: str, drive: Any, *, removable: bool) -> BlockBackend:
        """Return the named drive, or a new backend for a node or for no medium."""
        if drive is None:
            if not removable:
                raise QmpError("drive property not set")
            return BlockBackend(self._graph)
        backend = self._graph.backends.get(drive)
        if backend is None:
            if drive not in self._graph.nodes:
                owner = "virtio-blk-device" if driver in _VIRTIO else driver
                raise QmpError(f"Property '{owner}.drive' can't find value '{drive}'")
            return BlockBackend(self._graph)
        if backend.qdev_path is not None:
            raise QmpError(f"Drive '{drive}' is already in use by another device")
        return backend

    def _insert(self, backend: BlockBackend, drive: Any) -> None:
        if backend.root is None and drive in self._graph.nodes:
            backend.insert(self._graph.nodes[drive])

    def _path(self, driver: str, device_id: str | None) -> str:
        """Return what ``query-block`` shows as ``qdev``."""
        if device_id is not None and driver not in _VIRTIO:
            return device_id
        path = f"/machine/peripheral/{device_id}"
        if device_id is None:
            path = f"/machine/peripheral-anon/device[{self._anonymous}]"
            self._anonymous += 1
        return path + ("/virtio-backend" if driver in _VIRTIO else "")

    # Properties

    def find(self, path: str) -> Device | None:
        """Return the device of a QOM path: whole, from ``peripheral`` on, or the id alone."""
        parent, _, name = path.removesuffix("/virtio-backend").rpartition("/")
        if parent not in _PARENTS:
            return None
        return next((one for one in self._devices if one.id == name), None)

    def get_property(self, device: Device, name: str) -> str:
        """Return ``drive`` or ``type`` (qom-get). Raises ``QmpError``."""
        if name == "type":
            return device.driver
        return _drive_of(self._backend_with(device, name))

    async def set_property(self, device: Device, name: str, value: object) -> None:
        """Change ``drive``: put in another node (qom-set). Raises ``QmpError``, nothing changed."""
        if name in _PROPERTIES and device.backend is not None:
            raise QmpError(
                f"Attempt to set property '{name}' on device '{device.id}' "
                f"(type '{device.driver}') after it was realized"
            )
        backend = self._backend_with(device, name)
        if not isinstance(value, str):
            raise QmpError(f"Invalid parameter type for '{name}', expected: string")
        node = self._graph.lookup(None, value)
        if backend.root is None:
            backend.insert(node)
            return
        async with drained([backend.root.node, node]):
            self._graph.redirect(backend.root, node)

    @staticmethod
    def _backend_with(device: Device, name: str) -> BlockBackend:
        if name != "drive" or device.backend is None:
            raise QmpError(f"Property '{device.driver}.{name}' not found")
        return device.backend

    def remove(self, device_id: str) -> None:
        """Unplug a device (device_del): there is no guest that could object."""
        device = next((one for one in self._devices if one.id == device_id), None)
        if device is None:
            raise device_not_found(device_id)
        self._devices.remove(device)
        if device.backend is not None:
            self._backends.remove(device.backend)
            device.backend.close()


def _drive_of(backend: BlockBackend) -> str:
    return backend.name or (backend.node.node_name if backend.node else "")


def device_permissions(
    backend: BlockBackend, options: Mapping[str, Any], *, removable: bool
) -> tuple[Permission, Permission]:
    """Return what a disk of the guest does and what it lets others do."""
    read_only = removable or (backend.node is not None and backend.node.read_only)
    perm = Permission.CONSISTENT_READ
    if not read_only:
        perm |= Permission.WRITE
    shared = Permission.CONSISTENT_READ | Permission.WRITE_UNCHANGED | Permission.RESIZE
    if _SWITCHES.get(options.get("share-rw", "off"), False):
        shared |= Permission.WRITE
    return perm, shared
