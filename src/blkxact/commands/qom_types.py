"""Types of objects and devices.

QEMU's counterpart: ``qapi/qom.json``, ``qapi/qdev.json``; ``qom/qom-qmp-cmds.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.machine.qom_types import device_properties, list_types, type_properties
from blkxact.qapi.qom_types import QomListTypes, TypeName

from .command import Command


def qom_list_types(layer: BlockLayer, args: QomListTypes) -> list[dict[str, Any]]:
    """qom-list-types."""
    del layer
    return list_types(args.implements, abstract=args.abstract or False)


def qom_list_properties(layer: BlockLayer, args: TypeName) -> list[dict[str, str]]:
    """qom-list-properties."""
    return type_properties(args.typename, layer.release)


def device_list_properties(layer: BlockLayer, args: TypeName) -> list[dict[str, str]]:
    """device-list-properties."""
    del layer
    return device_properties(args.typename)


COMMANDS: Final = [
    Command("device-list-properties", device_list_properties, TypeName, system=True, locked=False),
    Command("qom-list-properties", qom_list_properties, TypeName, locked=False),
    Command("qom-list-types", qom_list_types, QomListTypes, locked=False),
]
