"""Media, devices, snapshots and exports for people, each by the QMP command of the same purpose.

QEMU's counterpart: ``block/monitor/block-hmp-cmds.c`` (hmp_eject, hmp_nbd_server_start and others),
hmp_change() in ``monitor/hmp-cmds.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blkxact.errors import QmpError

from .command import DEVICE, HmpCommand
from .command_line import Flag, Word
from .host import Context

_READ_ONLY_MODES: Final = ("retain", "read-only", "read-write")


async def eject(context: Context, arguments: Mapping[str, Any]) -> None:
    """``eject``."""
    force = bool(arguments.get("force"))
    await context.execute("eject", {"device": arguments["device"], "force": force})


async def change(context: Context, arguments: Mapping[str, Any]) -> None:
    """``change``: another medium."""
    members = {
        "device": arguments["device"],
        "filename": arguments["target"],
        "force": bool(arguments.get("force")),
    }
    if "format" in arguments:
        members["format"] = arguments["format"]
    mode = arguments.get("read-only-mode")
    if mode is not None:
        if mode not in _READ_ONLY_MODES:
            raise QmpError(f"invalid parameter value: {mode}")
        members["read-only-mode"] = mode
    await context.execute("blockdev-change-medium", members)


async def device_del(context: Context, arguments: Mapping[str, Any]) -> None:
    """``device_del``."""
    await context.execute("device_del", {"id": arguments["id"]})


# Snapshots


async def snapshot(context: Context, arguments: Mapping[str, Any]) -> None:
    """``snapshot_blkdev``."""
    if "snapshot-file" not in arguments:
        raise QmpError("Parameter 'snapshot-file' is missing")
    members = {
        "device": arguments["device"],
        "snapshot-file": arguments["snapshot-file"],
        "mode": "existing" if arguments.get("reuse") else "absolute-paths",
    }
    if "format" in arguments:
        members["format"] = arguments["format"]
    await context.execute("blockdev-snapshot-sync", members)


async def internal_snapshot(context: Context, arguments: Mapping[str, Any]) -> None:
    """``snapshot_blkdev_internal``."""
    await context.execute("blockdev-snapshot-internal-sync", arguments)


async def delete_internal_snapshot(context: Context, arguments: Mapping[str, Any]) -> None:
    """``snapshot_delete_blkdev_internal``."""
    await context.execute("blockdev-snapshot-delete-internal-sync", arguments)


# Exports


async def nbd_start(context: Context, arguments: Mapping[str, Any]) -> None:
    """``nbd_server_start``; with ``-a`` every disk is exported, or nothing is."""
    writable = bool(arguments.get("writable"))
    if writable and not arguments.get("all"):
        raise QmpError("-w only valid together with -a")
    await context.execute("nbd-server-start", {"addr": _address(arguments["uri"])})
    if not arguments.get("all"):
        return
    for block in await context.query("query-block"):
        if "inserted" not in block:
            continue
        try:
            await _export(context, {"device": block["device"], "writable": writable})
        except QmpError:
            await context.query("nbd-server-stop")
            raise


async def nbd_add(context: Context, arguments: Mapping[str, Any]) -> None:
    """``nbd_server_add``."""
    await _export(context, {**arguments, "writable": bool(arguments.get("writable"))})


async def _export(context: Context, members: Mapping[str, Any]) -> None:
    await context.execute("nbd-server-add", members)


async def nbd_remove(context: Context, arguments: Mapping[str, Any]) -> None:
    """``nbd_server_remove``."""
    members = {"name": arguments["name"]}
    if arguments.get("force"):
        members["mode"] = "hard"
    await context.execute("nbd-server-remove", members)


async def nbd_stop(context: Context, arguments: Mapping[str, Any]) -> None:
    """``nbd_server_stop``."""
    del arguments
    await context.query("nbd-server-stop")


def _address(text: str) -> dict[str, Any]:
    """Return SocketAddressLegacy; raises ``QmpError``."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise QmpError("invalid Unix socket address")
        return {"type": "unix", "data": {"path": path}}
    if text.startswith("fd:"):
        name = text.removeprefix("fd:")
        if not name:
            raise QmpError("invalid file descriptor address")
        return {"type": "fd", "data": {"str": name}}
    host, colon, port = text.removeprefix("tcp:").rpartition(":")
    if not colon:
        raise QmpError(f"error parsing address '{port}'")
    return {"type": "inet", "data": {"host": host.strip("[]"), "port": port}}


COMMANDS: Final[Mapping[str, HmpCommand]] = {
    "change": HmpCommand(
        change,
        (
            DEVICE,
            Flag("force", "f"),
            Word("target", "filename"),
            Word("format", optional=True),
            Word("read-only-mode", optional=True),
        ),
        "device [-f] filename [format [read-only-mode]]",
        "put another medium into a drive (-f: even if the tray is locked)",
    ),
    "device_del": HmpCommand(device_del, (Word("id"),), "device", "unplug a device"),
    "eject": HmpCommand(
        eject,
        (Flag("force", "f"), DEVICE),
        "[-f] device",
        "take the medium out of a drive (-f: even if the tray is locked)",
    ),
    "nbd_server_add": HmpCommand(
        nbd_add,
        (Flag("writable", "w"), DEVICE, Word("name", optional=True)),
        "nbd_server_add [-w] device [name]",
        "export a disk over NBD (-w: writable)",
    ),
    "nbd_server_remove": HmpCommand(
        nbd_remove,
        (Flag("force", "f"), Word("name")),
        "nbd_server_remove [-f] name",
        "end an export (-f: even if it has clients)",
    ),
    "nbd_server_start": HmpCommand(
        nbd_start,
        (Flag("all", "a"), Flag("writable", "w"), Word("uri")),
        "nbd_server_start [-a] [-w] host:port",
        "start the NBD server (-a: with an export of every disk, -w: writable)",
    ),
    "nbd_server_stop": HmpCommand(nbd_stop, (), "nbd_server_stop", "end the NBD server"),
    "snapshot_blkdev": HmpCommand(
        snapshot,
        (
            Flag("reuse", "n"),
            DEVICE,
            Word("snapshot-file", optional=True),
            Word("format", optional=True),
        ),
        "[-n] device [new-image-file] [format]",
        "go on with a disk in a new overlay (-n: in what exists)",
    ),
    "snapshot_blkdev_internal": HmpCommand(
        internal_snapshot, (DEVICE, Word("name")), "device name", "make a snapshot inside an image"
    ),
    "snapshot_delete_blkdev_internal": HmpCommand(
        delete_internal_snapshot,
        (DEVICE, Word("name"), Word("id", optional=True)),
        "device name [id]",
        "delete a snapshot inside an image",
    ),
}
