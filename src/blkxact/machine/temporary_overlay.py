"""The temporary overlay of a drive with ``snapshot=on``: it takes what is written, for one run.

Its file is unlinked as soon as it is open, so nothing remains however the emulator ends. The medium
itself is opened read-only.

QEMU's counterpart: bdrv_append_temp_snapshot() and bdrv_temp_snapshot_options() in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from blkxact.blockdev.image_create import create_image
from blkxact.errors import QmpError, strerror

if TYPE_CHECKING:
    from blkxact.block.node import BlockNode
    from blkxact.block_layer import BlockLayer

_OF_BOTH: Final = ("read-only", "discard")
"""Members that the overlay has as the drive does."""
_OF_THE_DRIVE: Final = ("detect-zeroes",)
"""Members that are the overlay's in place of the medium's."""

Members = dict[str, Any]


def snapshot_options(members: Mapping[str, Any]) -> tuple[Members, Members]:
    """Return the members of the medium, and those of its overlay."""
    overlay = {name: members[name] for name in (*_OF_BOTH, *_OF_THE_DRIVE) if name in members}
    medium = {name: value for name, value in members.items() if name not in _OF_THE_DRIVE}
    return {**medium, "read-only": "on"}, overlay


async def add_overlay(
    layer: BlockLayer, medium: BlockNode, folder: str, members: Mapping[str, Any]
) -> BlockNode:
    """Return a new overlay over ``medium`` with these members; raises ``QmpError``."""
    layer.graph.ref(medium)
    try:
        try:
            path = layer.storage.create_temporary(folder)
        except OSError as error:
            name = f"{folder}/vl.XXXXXX"
            reason = strerror(error)
            raise QmpError(f"Could not open temporary file '{name}': {reason}") from error
        try:
            return await _open_overlay(layer, medium, path, members)
        finally:
            layer.storage.unlink(path)
    finally:
        layer.graph.unref(medium)


async def _open_overlay(
    layer: BlockLayer, medium: BlockNode, path: str, members: Mapping[str, Any]
) -> BlockNode:
    try:
        await create_image(layer.blockdev, f"file:{path}", "qcow2", size=medium.length)
    except QmpError as error:
        raise QmpError(f"Could not create temporary overlay '{path}': {error.desc}") from error
    options = {
        **members,
        "driver": "qcow2",
        "file": {"driver": "file", "filename": path},
        "backing": medium.node_name,
        "cache": {"direct": False, "no-flush": True},
    }
    return await layer.blockdev.open(options)
