"""The backing file that the header of an image names: what its name is for, and where chains end.

Invariant: a chain of backing files ends at ``MAX_BACKING_DEPTH``, and names no file twice.

QEMU's counterpart: ``bdrv_open_backing_file`` in ``block.c``.
"""

from __future__ import annotations

from typing import Final

from blkxact.block.node import BlockNode
from blkxact.block.node_filename import backing_filename
from blkxact.drivers import find_driver
from blkxact.errors import QmpError

from .opening import NodeRef, members_of

MAX_BACKING_DEPTH: Final = 200
"""How many backing files may be below one image; a loop of links ends here at the latest."""
_NAMED_CHILDREN: Final = ("file", "image", "test")
"""The children that the filename of their parent can name."""


class ChainError(QmpError):
    """The chain of backing files has no end; said once, not for each image on the way."""


def takes_name_of_header(backing: NodeRef) -> bool:
    """Return whether the options of a backing file get the name in the header as well.

    In QEMU all do but those with a ``file.filename`` (bdrv_open_backing_file).
    """
    if isinstance(backing, str):
        return False
    file = members_of(backing).get("file")
    return file is None or isinstance(file, str) or "filename" not in members_of(file)


def refuse_second_name(options: NodeRef, filename: str) -> None:
    """Raise ``QmpError`` if what the name in the header would go to has one, or takes none."""
    while options is not None and not isinstance(options, str):
        members = members_of(options)
        options = next((members[key] for key in _NAMED_CHILDREN if key in members), None)
        driver = find_driver(members["driver"]) if "driver" in members else None
        if driver is not None and driver.is_protocol:
            if "filename" in members:
                raise QmpError("Can't specify 'file' and 'filename' options at the same time")
            if options is None:
                driver.parse_filename(filename)
    if options is not None:
        raise QmpError(
            "Cannot reference an existing block device with additional options or a new filename"
        )


def backing_path(node: BlockNode, chain: tuple[str, ...]) -> str:
    """Return the name of the backing file in the header, unless the chain would have no end."""
    path = backing_filename(node)
    if path in chain:
        raise ChainError(f"Backing file '{path}' creates an infinite loop.")
    check_depth(chain, MAX_BACKING_DEPTH)
    return path


def check_depth(chain: tuple[str, ...], limit: int) -> None:
    """Refuse to open more below one image: the chain that headers name could be endless."""
    if len(chain) > limit:
        raise ChainError(
            f"There are more than {MAX_BACKING_DEPTH} backing files below '{chain[0]}'"
        )
