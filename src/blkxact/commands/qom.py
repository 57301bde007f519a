"""Objects and their properties; of devices, what can be changed while they are in use.

QEMU's counterpart: ``qapi/qom.json``; ``qom/object_interfaces.c``, ``qom/qom-qmp-cmds.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.machine.device import OF_BOARD
from blkxact.machine.objects import ObjectHost, add_object
from blkxact.machine.qom_tree import (
    Container,
    QomObject,
    get_property,
    list_properties,
    resolve,
    resolve_for_list,
    set_property,
)
from blkxact.qapi.qom import ObjectDel, ObjectOptions, QomGet, QomPath, QomPaths, QomSet

from .command import Command


def object_add(layer: BlockLayer, args: Any) -> None:
    """object-add."""
    add_object(layer.objects, args, ObjectHost(layer.throttle_groups, layer.release))


def object_del(layer: BlockLayer, args: ObjectDel) -> None:
    """object-del."""
    if args.id not in layer.objects:
        raise QmpError(f"object '{args.id}' not found")
    layer.objects[args.id].delete()
    del layer.objects[args.id]


def qom_get(layer: BlockLayer, args: QomGet) -> Any:
    """qom-get."""
    path, found = resolve(_root(layer), args.path)
    return get_property(found, path, args.property)


async def qom_set(layer: BlockLayer, args: QomSet) -> None:
    """qom-set; ``drive`` of a device puts a filter in, or takes it out."""
    _, found = resolve(_root(layer), args.path)
    await set_property(found, args.property, args.value)
    await layer.close_unused_nodes()


def qom_list(layer: BlockLayer, args: QomPath) -> list[dict[str, str]]:
    """qom-list: the properties of an object, those below it among them."""
    _, found = resolve_for_list(_root(layer), args.path)
    return [{"name": name, "type": type_} for name, type_ in list_properties(found).items()]


def qom_list_get(layer: BlockLayer, args: QomPaths) -> list[dict[str, Any]]:
    """qom-list-get: the properties of several objects, with their values."""
    root = _root(layer)
    found = [resolve_for_list(root, path) for path in args.paths]
    return [{"properties": _with_values(path, one)} for path, one in found]


def _with_values(path: str, found: QomObject) -> list[dict[str, Any]]:
    return [
        {"name": name, "type": kind, "value": get_property(found, path, name)}
        for name, kind in list_properties(found).items()
    ]


def _root(layer: BlockLayer) -> QomObject:
    machine, below = layer.machine, layer.devices.tree().children
    unattached = below[OF_BOARD].children if OF_BOARD in below else {}
    return Container(
        {
            "objects": Container(layer.objects),
            "machine": Container(
                {**below, OF_BOARD: Container({**machine.cpus(), **unattached})},
                f"{machine.type_name}-machine",
            ),
        }
    )


COMMANDS: Final = [
    Command("object-add", object_add, ObjectOptions),
    Command("object-del", object_del, ObjectDel),
    Command("qom-get", qom_get, QomGet),
    Command("qom-list", qom_list, QomPath),
    Command("qom-list-get", qom_list_get, QomPaths),
    Command("qom-set", qom_set, QomSet),
]
