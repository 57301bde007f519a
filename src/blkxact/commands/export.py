"""Commands on the NBD server and on exports.

QEMU's counterpart: ``qapi/block-export.json``; ``blockdev-nbd.c``, ``block/export/export.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.export.exports import BlockExport
from blkxact.machine.objects import tls_context
from blkxact.qapi.block_export import (
    BlockExportDel,
    BlockExportOptions,
    BlockExportOptionsNbd,
    NbdServerAddOptions,
    NbdServerOptions,
    NbdServerRemove,
    NbdServerStart,
)
from blkxact.qapi.common import NoArguments
from blkxact.qapi.sockets import AnySocketAddress, FdSocketAddress, InetSocketAddress
from blkxact.qapi.versions import KEEP_ALIVE_WHEN_LISTENING, behaves
from blkxact.runtime.steps import yield_turn

from .command import Command


def start_nbd_server(layer: BlockLayer, options: NbdServerOptions) -> None:
    """--nbd-server on the command line."""
    assert isinstance(options.addr, AnySocketAddress)
    _start(layer, options.addr, options)


def nbd_server_start(layer: BlockLayer, args: NbdServerStart) -> None:
    """nbd-server-start."""
    _start(layer, args.addr.data, args)


def _start(
    layer: BlockLayer,
    address: AnySocketAddress,
    options: NbdServerOptions | NbdServerStart,
) -> None:
    if options.tls_authz is not None:
        raise QmpError("Parameter 'tls-authz' is not supported; 'verify-peer' checks clients")
    if layer.nbd_server.running:
        raise QmpError("NBD server already running")
    keep_alive = isinstance(address, InetSocketAddress) and address.keep_alive
    if keep_alive and not behaves(KEEP_ALIVE_WHEN_LISTENING, layer.release):
        raise QmpError("keep-alive option is not supported for passive sockets")
    tls = None
    if options.tls_creds is not None:
        tls = tls_context(layer.objects, options.tls_creds, "server")
    layer.nbd_server.start(
        layer.descriptors.take_socket(address.name)
        if isinstance(address, FdSocketAddress)
        else address,
        max_connections=options.max_connections,
        handshake_s=options.handshake_max_seconds,
        tls=tls,
    )


async def nbd_server_stop(layer: BlockLayer, args: NoArguments) -> None:
    """nbd-server-stop."""
    del args
    await layer.nbd_server.stop()


async def nbd_server_add(layer: BlockLayer, args: NbdServerAddOptions) -> None:
    """nbd-server-add: an export whose id is its name, gone with the device's medium."""
    node = layer.lookup(args.device, args.device)
    name = args.device if args.name is None else args.name
    given: dict[str, Any] = {}
    if args.description is not None:
        given["description"] = args.description
    if args.bitmap is not None:
        given["bitmaps"] = [args.bitmap]
    options = BlockExportOptionsNbd(
        type="nbd",
        id=name,
        name=name,
        node_name=node.node_name,
        writable=args.writable and not node.read_only,
        **given,
    )
    export = await _add(layer, options)
    device = layer.named_backend(args.device)
    if device is not None:
        device.on_remove.append(export.shut_down)


async def nbd_server_remove(layer: BlockLayer, args: NbdServerRemove) -> None:
    """nbd-server-remove."""
    await layer.exports.remove(args.name, args.mode)
    await yield_turn()  # the event of one without clients precedes the reply


async def block_export_add(layer: BlockLayer, args: BlockExportOptionsNbd) -> None:
    """block-export-add, --export on the command line."""
    await _add(layer, args)


async def _add(layer: BlockLayer, options: BlockExportOptionsNbd) -> BlockExport:
    """Make an export, of an active node unless it may be inactive; raises ``QmpError``."""
    node = layer.exports.check(options)
    if not node.inactive or options.allow_inactive:
        return layer.exports.add(options)
    from blkxact.blockdev.activity import activate, inactivate  # noqa: PLC0415 - few are inactive

    await activate(layer.graph, [node])
    try:
        return layer.exports.add(options)
    except QmpError:
        await inactivate(layer.graph, [node])
        raise


async def block_export_del(layer: BlockLayer, args: BlockExportDel) -> None:
    """block-export-del."""
    await layer.exports.remove(args.id, args.mode)
    await yield_turn()


def query_block_exports(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-block-exports."""
    del args
    return layer.exports.query()


COMMANDS: Final = [
    Command("block-export-add", block_export_add, BlockExportOptions),
    Command("block-export-del", block_export_del, BlockExportDel),
    Command("nbd-server-add", nbd_server_add, NbdServerAddOptions),
    Command("nbd-server-remove", nbd_server_remove, NbdServerRemove),
    Command("nbd-server-start", nbd_server_start, NbdServerStart),
    Command("nbd-server-stop", nbd_server_stop),
    Command("query-block-exports", query_block_exports),
]
