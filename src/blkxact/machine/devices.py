"""The guest's devices: what a disk is plugged into, as far as the block layer is concerned.

There is no guest. A device is a backend with an id, the permissions a real one would take, and an
error policy; controllers have buses that devices can name, and nothing else.

QEMU's counterpart: ``softmmu/qdev-monitor.c``, ``hw/block/block.c``,
``hw/core/qdev-properties-system.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blkxact.block.backend import BlockBackend
from blkxact.block.blockers import BlockOp
from blkxact.block.graph import Graph
from blkxact.block.names import is_well_formed
from blkxact.block.node import BlockNode
from blkxact.block.threads import check_threads
from blkxact.block.types import Permission
from blkxact.enums import BlockdevOnError
from blkxact.errors import QmpError, device_not_found
from blkxact.qapi.versions import (
    CONTROLLERS_TAKE_BUSY_DISKS,
    DEVICE_IDS_CHECKED,
    behaves,
)
from blkxact.runtime.release import Release

from .device import ANONYMOUS, NAMED, OF_BOARD, Device
from .device_object import DeviceObject
from .models import FLASH, MACHINE_BUSES, MODELS, DeviceModel
from .objects import Object
from .properties import parse_property, text_of
from .qom_tree import Container, QomObject, descend, resolve
from .typed_properties import check_property

_OF_EVERY_DEVICE: Final = frozenset({"driver", "bus", "id"})
_SCSI: Final = "SCSI"

FIRST_OF_BOARD: Final = 1024
"""The number of the first device of the board without a name; others are those of processors."""


class Devices:
    """The devices of one emulator. ``backends`` is the list that queries show."""

    def __init__(
        self,
        graph: Graph,
        backends: list[BlockBackend],
        objects: Mapping[str, Object],
        release: Release,
    ) -> None:
        self._release = release
        self._graph = graph
        self._backends = backends
        self._objects = objects
        self._devices: list[Device] = []
        self._anonymous = 0
        self._of_board = 0

    def add_of_board(self, driver: str, drive: str) -> None:
        """Plug a drive into a device that the board has for it; raises ``QmpError``."""
        if driver == FLASH.name:
            number = sum(device.model is FLASH for device in self._devices)
            device = Device(FLASH, None, f"system.flash{number}", parent="")
        else:
            self._of_board += 1
            name = f"device[{FIRST_OF_BOARD + self._of_board - 1}]"
            device = Device(MODELS[driver], None, name, parent=OF_BOARD)
        device.properties = {"drive": drive}
        self._plug(device)
        self._devices.append(device)

    def add(self, members: Mapping[str, Any], *, typed: bool = False) -> None:
        """Plug a device in (device_add): ``driver``, ``bus``, ``id`` and its properties.

        ``typed``: the properties are JSON values, not texts. Raises ``QmpError``.
        """
        device_id = _text(members.get("id"))  # no other type is taken for one
        if typed:
            given: dict[str, Any] = dict(members)
        else:
            words = {name: text_of(value) for name, value in members.items()}
            given = {name: text for name, text in words.items() if text is not None}
            if device_id is not None and not is_well_formed(device_id):
                raise QmpError("Parameter 'id' expects an identifier")
        driver, bus = _text(given.get("driver")), _text(given.get("bus"))
        if driver is None:
            raise QmpError("Parameter 'driver' is missing")
        if driver not in MODELS:
            raise QmpError(f"'{driver}' is not a valid device model name")
        model = MODELS[driver]
        self._check_bus(model, bus)
        parent = ANONYMOUS if device_id is None else NAMED
        device = Device(model, device_id, self._name(device_id), bus=bus, parent=parent)
        values = {name: value for name, value in given.items() if name not in _OF_EVERY_DEVICE}
        device.properties = self._read(model, values, typed=typed)
        device.buses = model.buses(device_id, self._count_buses(model.provides))
        if model.is_disk:
            self._plug(device)
        self._devices.append(device)

    def _check_bus(self, model: DeviceModel, path: str | None) -> None:
        """Raise ``QmpError`` if a bus is named that is not there or is of another kind.

        A device that names none has one: buses are all that the machine would be good for.
        """
        if path is None or model.of_guest:
            return
        buses = dict(bus for device in self._devices for bus in device.buses)
        name, *below = path.split("/")
        if path.startswith("/") and below[0]:
            raise device_not_found(below[0])
        kind = buses.get(name, MACHINE_BUSES.get(name))
        if kind is None:
            raise QmpError(f"Bus '{name}' not found")
        if below:
            raise device_not_found(below[0])
        if kind != model.bus:
            raise QmpError(f"Device '{model.name}' can't go on {kind} bus")

    def _name(self, device_id: str | None) -> str:
        if device_id is None:
            # QEMU counts those that fail later, too.
            self._anonymous += 1
            return f"device[{self._anonymous - 1}]"
        if behaves(DEVICE_IDS_CHECKED, self._release) and not is_well_formed(device_id):
            raise QmpError(f"Invalid qdev ID '{device_id}'")
        if any(device.id == device_id for device in self._devices):
            raise QmpError(f"Duplicate device ID '{device_id}'")
        return device_id

    def _count_buses(self, kind: str) -> int:
        """Return how many buses of a kind have a number instead of a device's id."""
        return sum(
            len(device.buses)
            for device in self._devices
            if device.id is None and device.model.provides == kind
        )

    def _read(self, model: DeviceModel, given: Mapping[str, Any], *, typed: bool) -> dict[str, Any]:
        """Return the values of properties; raises ``QmpError`` for one that is not right."""
        if model.of_guest:
            return dict(given)
        read = check_property if typed else parse_property
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name in ("type", "hotplugged"):
                raise QmpError(f"Property '{model.name}.{name}' is not writable")
            kind = model.properties.get(name)
            if kind is None:
                raise QmpError(f"Property '{model.name}.{name}' not found")
            values[name] = read(model.name, name, kind, value)
        thread = values.get("iothread")
        if thread:
            found = self._objects.get(thread)
            if found is None:
                raise device_not_found(thread)
            if found.qom_type != "iothread":
                raise QmpError("Invalid parameter type for 'iothread', expected: iothread")
        return values

    # The medium

    def _plug(self, device: Device) -> None:
        """Give the device the drive that its properties name, or an empty one."""
        model, properties = device.model, device.properties
        drive = properties.get("drive") or None
        for needed in model.needs:
            if needed not in properties:
                raise QmpError(f"{needed} property not set")
        backend = self._find_backend(model, drive)
        node = backend.node or self._graph.nodes.get(drive or "")
        try:
            backend.qdev_id, backend.qdev_path = device.id, device.qdev
            self._take(device, backend, node)
        except QmpError:
            backend.qdev_id = backend.qdev_path = None
            if backend not in self._backends:
                backend.close()
            raise
        _configure(backend, model, properties)
        device.backend = backend
        if backend not in self._backends:
            self._backends.append(backend)

    def _find_backend(self, model: DeviceModel, drive: str | None) -> BlockBackend:
        """Return the named drive, or a new backend for a node or for no medium."""
        if drive is None:
            if not model.removable:
                raise QmpError("drive property not set")
            return BlockBackend(self._graph)
        backend = next((one for one in self._backends if one.name == drive), None)
        if backend is None:
            if drive not in self._graph.nodes:
                owner = model.virtio or model.name
                raise QmpError(f"Property '{owner}.drive' can't find value '{drive}'")
            return BlockBackend(self._graph)
        if backend.qdev_path is not None:
            raise QmpError(f"Drive '{drive}' is already in use by another device")
        return backend

    def _take(self, device: Device, backend: BlockBackend, node: BlockNode | None) -> None:
        """Insert the medium, if it is not inserted, with the permissions that the device needs."""
        model = device.model
        read_only = node is not None and node.read_only
        if read_only and not model.takes_read_only:
            raise QmpError("Block node is read-only")
        writes = node is not None and not read_only and not model.has_tray
        masks = _permissions(
            model, writes=writes, share_rw=device.properties.get("share-rw", False)
        )
        backend.set_permissions(*masks)
        if backend.root is None and node is not None:
            backend.insert(node)
        if model.bus == _SCSI and node is not None:
            # A virtio-scsi controller moves its disks to its own thread.
            if not behaves(CONTROLLERS_TAKE_BUSY_DISKS, self._release):
                node.check_operation(BlockOp.DATAPLANE)
            thread = self._controller_thread(device)
            check_threads([node], thread)
            backend.iothread = thread

    def _controller_thread(self, device: Device) -> str | None:
        """Return the iothread of the controller whose bus a disk is on."""
        for other in self._devices:
            names = [name for name, _ in other.buses]
            if other.model.provides == device.model.bus and device.bus in (None, *names):
                return other.properties.get("iothread") or None
        return None

    # Names

    def tree(self) -> QomObject:
        """Return ``/machine``."""
        below: dict[str, dict[str, QomObject]] = {NAMED: {}, ANONYMOUS: {}, OF_BOARD: {}, "": {}}
        for one in self._devices:
            below[one.parent][one.name] = self._object(one)
        top = below.pop("")
        parents = {
            name: Container(children)
            for name, children in below.items()
            if children or name != OF_BOARD
        }
        return Container({**parents, **top}, "none-machine")

    def _object(self, device: Device) -> QomObject:
        return DeviceObject(self._graph, device)

    def find(self, path: str) -> Device | None:
        """Return the device of a whole path or the end of one, also by its ``virtio-backend``."""
        try:
            _, found = resolve(Container({"machine": self.tree()}), path)
        except QmpError:
            return None
        return found.device if isinstance(found, DeviceObject) else None

    def find_state(self, device_id: str) -> Device:
        """Return the device of that id or whole path (``find_device_state``); or raise."""
        root = Container({"machine": self.tree()})
        whole = device_id if device_id.startswith("/") else f"/machine/peripheral/{device_id}"
        found = descend(("", root), whole)
        if found is None:
            raise device_not_found(device_id)
        if not isinstance(found[1], DeviceObject):
            raise QmpError(f"{device_id} is not a device")
        return found[1].device

    def find_backend(self, device_id: str) -> BlockBackend:
        """Return the backend of the device of that id or path (``qmp_get_blk``); or raise."""
        backend = self.find_state(device_id).backend
        if backend is None:
            raise QmpError("Device does not have a block device backend")
        return backend

    def remove(self, device_id: str) -> Device:
        """Unplug a device (device_del): there is no guest that could object."""
        device = self.find_state(device_id)
        self._devices.remove(device)
        if device.backend is not None:
            self._backends.remove(device.backend)
            device.backend.close()
        return device


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _configure(backend: BlockBackend, model: DeviceModel, properties: Mapping[str, Any]) -> None:
    """Take over the policy; what the device does not say ("auto") is as the drive has it."""
    removable = bool(properties.get("removable"))
    backend.removable = model.removable or removable
    backend.has_tray = model.has_tray or removable
    backend.writes_by_medium = model.removable and not model.has_tray
    backend.io_status_enabled = model.has_io_status
    for what in ("failed", "invalid"):
        value = properties.get(f"account-{what}", "auto")
        if value != "auto":
            setattr(backend.accounting, f"account_{what}", value == "on")
    if properties.get("rerror", "auto") != "auto":
        backend.on_read_error = BlockdevOnError(properties["rerror"])
    if properties.get("werror", "auto") != "auto":
        backend.on_write_error = BlockdevOnError(properties["werror"])
    if properties.get("write-cache", "auto") != "auto":
        backend.write_cache = properties["write-cache"] == "on"


def _permissions(
    model: DeviceModel, *, writes: bool, share_rw: bool
) -> tuple[Permission, Permission]:
    """Return what a disk of the guest does and what it lets others do."""
    perm = Permission.CONSISTENT_READ
    if writes:
        perm |= Permission.WRITE
    shared = Permission.CONSISTENT_READ | Permission.WRITE_UNCHANGED
    if model.resizable:
        shared |= Permission.RESIZE
    if share_rw:
        shared |= Permission.WRITE
    return perm, shared
