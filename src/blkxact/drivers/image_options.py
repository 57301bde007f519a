"""From the name of an image to the options of its nodes.

QEMU's counterpart: ``bdrv_fill_options`` and ``bdrv_find_protocol`` in ``block.c``.
"""

from __future__ import annotations

from typing import Any

from blkxact.block.filename import JSON_PREFIX, parse_json, protocol_of
from blkxact.errors import QmpError

from . import PROTOCOLS, find_driver


def image_options(filename: str, fmt: str | None) -> dict[str, Any]:
    """Return BlockdevOptions for the image of that name; raises ``QmpError``.

    Without ``fmt`` they may be without ``driver``: the format is to be probed.
    """
    if filename.startswith(JSON_PREFIX):
        given = parse_json(filename)
        return {"driver": fmt, **given} if fmt else given
    protocol = protocol_options(filename)
    if fmt is None:
        return {"file": protocol}
    if fmt in PROTOCOLS.values():
        return {**protocol, "driver": fmt}
    return {"driver": fmt, "file": protocol}


def protocol_options(filename: str) -> dict[str, Any]:
    """Return the options of the protocol node for a filename; raises ``QmpError``."""
    protocol = protocol_of(filename)
    if not protocol:
        return {"driver": "file", "filename": filename}
    if protocol not in PROTOCOLS:
        raise QmpError(f"Unknown protocol '{protocol}'")
    return find_driver(PROTOCOLS[protocol]).parse_filename(filename)
