"""Devices as objects: their properties, and ``drive``, which can be changed while they are in use.

QEMU's counterpart: ``qdev_prop_*`` in ``hw/core/qdev-properties.c``, ``set_drive_helper()`` in
``hw/core/qdev-properties-system.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from blkxact.block.backend import BlockBackend
from blkxact.block.drain import drained
from blkxact.block.graph import Graph
from blkxact.errors import QmpError

from .device import Device
from .qom_tree import QomObject, property_not_found

_STATES: Final = MappingProxyType({"realized": True, "hotplugged": True})
"""What is always so."""
_DEFAULTS: Final = MappingProxyType(
    {
        "rerror": "auto",
        "serial": "",
        "share-rw": False,
        "werror": "auto",
    }
)
"""What properties are that nobody gave. Those of the machine are not known here."""


class DeviceObject:
    """One device, or with ``backend`` the virtio device below it, which has the drive."""

    def __init__(self, graph: Graph, device: Device, *, is_backend: bool = False) -> None:
        self.device = device
        self._graph = graph
        self._is_backend = is_backend

    @property
    def qom_type(self) -> str:
        """The model, or the type of the virtio device below it."""
        model = self.device.model
        return model.virtio if self._is_backend else model.name

    @property
    def children(self) -> Mapping[str, QomObject]:
        """The virtio device below one that is plugged into another bus."""
        if self._is_backend or not self.device.model.virtio:
            return {}
        return {"virtio-backend": DeviceObject(self._graph, self.device, is_backend=True)}

    def _known(self) -> dict[str, Any]:
        """Return the properties whose values are known."""
        device = self.device
        table = device.model.properties
        known = {name: value for name, value in _DEFAULTS.items() if name in table}
        known |= device.properties
        if device.backend is not None:
            known["drive"] = _drive_of(device.backend)
            known["write-cache"] = "on" if device.backend.write_cache else "off"
        return known

    def properties(self) -> Mapping[str, str]:
        """Return the properties that can be read."""
        table = self.device.model.properties
        known = {name: table.get(name, "string") for name in self._known()}
        return dict.fromkeys(_STATES, "bool") | known

    def get(self, name: str) -> Any:
        """Return the value of a property."""
        known = _STATES | self._known()
        if name not in known:
            raise property_not_found(self, name)
        return known[name]

    async def set(self, name: str, value: Any) -> None:
        """Change ``drive``: put in another node. Raises ``QmpError``, nothing changed."""
        device = self.device
        if name == "hotplugged":
            raise QmpError(f"Property '{self.qom_type}.{name}' is not writable")
        if name not in device.model.properties:
            raise property_not_found(self, name)
        if name != "drive":
            raise QmpError(
                f"Attempt to set property '{name}' on device '{device.id}' "
                f"(type '{self.qom_type}') after it was realized"
            )
        if not isinstance(value, str):
            raise QmpError(f"Invalid parameter type for '{name}', expected: string")
        backend = device.backend
        assert backend is not None  # it has a drive
        node = self._graph.lookup(None, value)
        if backend.root is None:
            backend.insert(node)
            return
        async with drained([backend.root.node, node]):
            self._graph.redirect(backend.root, node)


def _drive_of(backend: BlockBackend) -> str:
    return backend.name or (backend.node.node_name if backend.node else "")
