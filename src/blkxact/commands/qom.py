"""Objects and their properties; of devices, what can be changed while they are in use.

QEMU's counterpart: ``qapi/qom.json``; ``qom/object_interfaces.c``, ``qom/qom-qmp-cmds.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError, device_not_found
from blkxact.machine.objects import Object, add_object
from blkxact.qapi.qom import ObjectDel, ObjectOptions, QomGet, QomPath, QomSet

from .command import Command

_ROOT: Final = "objects"


def object_add(layer: BlockLayer, args: Any) -> None:
    """object-add."""
    add_object(layer.objects, args, layer.throttle_groups)


def object_del(layer: BlockLayer, args: ObjectDel) -> None:
    """object-del."""
    if args.id not in layer.objects:
        raise QmpError(f"object '{args.id}' not found")
    layer.objects[args.id].delete()
    del layer.objects[args.id]


def qom_get(layer: BlockLayer, args: QomGet) -> Any:
    """qom-get."""
    device = layer.devices.find(args.path)
    if device is not None:
        return layer.devices.get_property(device, args.property)
    return _find(layer, args.path).get(args.property)


async def qom_set(layer: BlockLayer, args: QomSet) -> None:
    """qom-set; ``drive`` of a device puts a filter in, or takes it out."""
    device = layer.devices.find(args.path)
    if device is not None:
        await layer.devices.set_property(device, args.property, args.value)
        await layer.close_unused_nodes()
        return
    _find(layer, args.path).set(args.property, args.value)


def qom_list(layer: BlockLayer, args: QomPath) -> list[dict[str, str]]:
    """qom-list: the properties of an object, or the objects."""
    if args.path.strip("/") == _ROOT:
        types = {name: f"child<{one.qom_type}>" for name, one in layer.objects.items()}
    else:
        types = dict(_find(layer, args.path).properties())
    return [{"name": name, "type": type_} for name, type_ in {"type": "string", **types}.items()]


def _find(layer: BlockLayer, path: str) -> Object:
    """Return the object of a path: ``ID``, ``objects/ID`` or ``/objects/ID``."""
    parent, _, name = path.rpartition("/")
    found = layer.objects.get(name) if parent in ("", _ROOT, f"/{_ROOT}") else None
    if found is None or path == f"/{name}":
        raise device_not_found(path)
    return found


COMMANDS: Final = [
    Command("object-add", object_add, ObjectOptions),
    Command("object-del", object_del, ObjectDel),
    Command("qom-get", qom_get, QomGet),
    Command("qom-list", qom_list, QomPath),
    Command("qom-set", qom_set, QomSet),
]
