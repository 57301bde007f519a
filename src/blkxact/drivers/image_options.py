"""From the name of an image to the options of its nodes.

QEMU's counterpart: ``bdrv_fill_options`` and ``bdrv_find_protocol`` in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        return _typed({"driver": fmt, **given} if fmt else given)
    protocol = protocol_options(filename)
    if fmt is None:
        return {"file": protocol}
    if fmt in PROTOCOLS.values():
        return {**protocol, "driver": fmt}
    return {"driver": fmt, "file": protocol}


def _typed(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a ``json:`` name as the schema has them; raises ``QmpError``.

    Whoever wrote them into an image may have written anything.
    """
    # The schema takes longer to load than most images to look at.
    from blkxact.qapi.blockdev import BlockdevOptions  # noqa: PLC0415
    from blkxact.qapi.validation import validate_keyval  # noqa: PLC0415

    given = _with_protocols(options)
    probed = "driver" not in given
    if probed and "file" not in given:
        raise QmpError("Must specify either driver or file")
    wire: dict[str, Any] = validate_keyval(
        BlockdevOptions, {"driver": "raw", **given} if probed else given
    ).to_wire()
    if probed:
        del wire["driver"]
    return wire


def _with_protocols(options: dict[str, Any]) -> dict[str, Any]:
    """Name the drivers that follow from filenames, here and in all that is within."""
    result = {
        name: _with_protocols(value) if isinstance(value, dict) else value
        for name, value in options.items()
    }
    filename = result.get("filename")
    if isinstance(filename, str) and not result.keys() & {"driver", "file"}:
        del result["filename"]
        result = {**protocol_options(filename), **result}
    return result


def protocol_options(filename: str) -> dict[str, Any]:
    """Return the options of the protocol node for a filename; raises ``QmpError``."""
    protocol = protocol_of(filename)
    if not protocol:
        return {"driver": "file", "filename": filename}
    if protocol not in PROTOCOLS:
        raise QmpError(f"Unknown protocol '{protocol}'")
    return find_driver(PROTOCOLS[protocol]).parse_filename(filename)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of both, of objects too; where both have one it is that of ``above``."""
    result = {**below, **above}
    for name, member in above.items():
        if isinstance(member, Mapping) and isinstance(below.get(name), Mapping):
            result[name] = merged(below[name], member)
    return result
