"""Drives that come and go while the emulator runs.

QEMU's counterpart: hmp_drive_add() and hmp_drive_del() in ``block/monitor/block-hmp-cmds.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from blkxact.block.blockers import BlockOp
from blkxact.block.drain import drained
from blkxact.enums import BlockdevOnError
from blkxact.errors import QmpError
from blkxact.machine.drives import add_drive

from .command import HmpCommand
from .command_line import HmpRefusal, Word
from .host import Context

if TYPE_CHECKING:
    from blkxact.block.backend import BlockBackend
    from blkxact.block_layer import BlockLayer

_INTERFACES: Final = {"ide-hd": 1, "ide-cd": 1, "scsi-hd": 2, "floppy": 3, "virtio-blk": 7}
"""The number of the interface (BlockInterfaceType) of each device that a drive may bring."""


async def add(context: Context, arguments: Mapping[str, Any]) -> None:
    """``drive_add``: a drive without a device."""
    layer = context.layer
    try:
        drive = layer.parse_drive(arguments["opts"])
        if drive.device is not None:
            number = _INTERFACES[drive.device]
            raise HmpRefusal(f"Can't hot-add drive to type {number}\n")
        if drive.id in layer.graph.backends:
            raise HmpRefusal(f"Duplicate ID '{drive.id}' for drive\n")
        await add_drive(cast("BlockLayer", layer), drive)
    except QmpError as error:
        context.answer_error(error)
    else:
        context.answer("OK\n")


async def delete(context: Context, arguments: Mapping[str, Any]) -> None:
    """``drive_del``: a drive, whose device stays without a medium, or a node."""
    layer, name = context.layer, arguments["id"]
    try:
        if layer.graph.find(name) is not None:
            await context.execute("blockdev-del", {"node-name": name})
            return
        backend = next((one for one in layer.backends if name and one.name == name), None)
        if backend is None:
            raise HmpRefusal(f"Device '{name}' not found\n")
        await _delete(context, backend)
    except QmpError as error:
        context.answer_error(error)


async def _delete(context: Context, backend: BlockBackend) -> None:
    layer, node = context.layer, backend.node
    if node is not None:
        node.check_operation(BlockOp.DRIVE_DEL)
        async with drained([node]):
            backend.remove()
        await layer.close_unused_nodes()
    if backend.qdev_path is None:
        layer.backends.remove(backend)
        backend.close()
        return
    backend.give_name_back()
    backend.on_read_error = backend.on_write_error = BlockdevOnError.REPORT


COMMANDS: Final[Mapping[str, HmpCommand]] = {
    "drive_add": HmpCommand(
        add,
        (Word("pci_addr"), Word("opts")),
        "[[<domain>:]<bus>:]<slot> [file=file][,if=none][,id=id][,...]",
        "make a drive without a device (the address is not looked at)",
    ),
    "drive_del": HmpCommand(
        delete, (Word("id", "block device name"),), "device", "take a drive away from its device"
    ),
}
