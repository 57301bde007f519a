"""File descriptors that clients pass in.

QEMU's counterpart: ``qapi/misc.json``; ``monitor/misc.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.qapi.common import NoArguments
from blkxact.qapi.misc import AddFd, FdName, RemoveFd

from .command import Client, Command


def getfd(layer: BlockLayer, args: FdName, client: Client | None) -> None:
    """Keep a descriptor under a name."""
    layer.descriptors.name(args.fdname, _received(client))


def closefd(layer: BlockLayer, args: FdName) -> None:
    """Close a descriptor that has a name."""
    layer.descriptors.close_named(args.fdname)


def add_fd(layer: BlockLayer, args: AddFd, client: Client | None) -> dict[str, int]:
    """add-fd: put a descriptor into a set."""
    fd = _received(client)
    return {"fdset-id": layer.descriptors.add(fd, args.fdset_id, args.opaque), "fd": fd}


def remove_fd(layer: BlockLayer, args: RemoveFd) -> None:
    """remove-fd."""
    layer.descriptors.remove(args.fdset_id, args.fd)


def query_fdsets(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-fdsets."""
    del args
    return layer.descriptors.describe()


def _received(client: Client | None) -> int:
    fd = None if client is None else client.take_descriptor()
    if fd is None:
        raise QmpError("No file descriptor supplied via SCM_RIGHTS")
    return fd


COMMANDS: Final = [
    Command("add-fd", add_fd, AddFd, system=True, from_client=True),
    Command("closefd", closefd, FdName, system=True, locked=False),
    Command("getfd", getfd, FdName, system=True, from_client=True),
    Command("query-fdsets", query_fdsets, system=True, locked=False),
    Command("remove-fd", remove_fd, RemoveFd, system=True, locked=False),
]
