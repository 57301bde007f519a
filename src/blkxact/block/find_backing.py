"""Finding the image of a backing chain that a client means by a name.

QEMU's counterpart: ``bdrv_find_backing_image`` in ``block.c``.
"""

from __future__ import annotations

from blkxact.errors import QmpError

from .chain import skip_filters
from .filename import combine, protocol_of
from .node import BlockNode
from .node_filename import backing_filename, base_directory_name, has_other_backing


def find_backing_image(top: BlockNode, name: str) -> BlockNode | None:
    """Return the image below ``top`` that is meant by ``name``, as a client writes it."""
    image = skip_filters(top)
    while image.backing is not None:
        below = skip_filters(image.backing)
        if _is_meant(name, image, below):
            return below
        image = below
    return None


def _is_meant(name: str, image: BlockNode, below: BlockNode) -> bool:
    """Return whether ``name`` means the backing file of ``image``."""
    if has_other_backing(image):
        return name == below.filename
    header = image.driver.backing_file
    if protocol_of(name) or protocol_of(header):
        return name in (header, _full_backing_name(image))
    full = _full_backing_name(image)
    real_path = image.driver.context.env.storage.real_path
    asked = real_path(combine(base_directory_name(image), name))
    return asked is not None and full is not None and asked == real_path(full)


def _full_backing_name(image: BlockNode) -> str | None:
    try:
        return backing_filename(image)
    except QmpError:
        return None
