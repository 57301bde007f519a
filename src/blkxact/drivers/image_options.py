"""From the name of an image to the options of its nodes.

QEMU's counterpart: ``bdrv_fill_options`` and ``bdrv_find_protocol`` in ``block.c``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from blkxact.block.filename import JSON_PREFIX, parse_json, protocol_of
from blkxact.errors import QmpError

from . import DRIVERS, PROTOCOLS, find_driver
from .driver_options import with_sizes

IsDevice = Callable[[str], bool]


def image_options(filename: str, fmt: str | None, is_device: IsDevice) -> dict[str, Any]:
    """Return BlockdevOptions for the image of that name; raises ``QmpError``.

    Without ``fmt`` they may be without ``driver``: the format is to be probed.
    """
    if filename.startswith(JSON_PREFIX):
        given = parse_json(filename)
        # A format that is named beside the options replaces theirs, as in QEMU. So an image whose
        # header says raw cannot name another driver for its backing file.
        return typed_options({**given, "driver": fmt} if fmt else given, is_device)
    protocol = protocol_options(filename, is_device)
    if fmt is None:
        return {"file": protocol}
    if fmt in PROTOCOLS.values():
        return {**protocol, "driver": fmt}
    return {"driver": fmt, "file": protocol}


def typed_options(options: dict[str, Any], is_device: IsDevice) -> dict[str, Any]:
    """Return options of a ``json:`` name, or of a list of options, as the schema has them.

    Drivers that follow from file names may be left out. Whoever wrote such a name into an image may
    have written anything. Raises ``QmpError``.
    """
    # The schema takes longer to load than most images to look at.
    from blkxact.qapi.blockdev import BlockdevOptions  # noqa: PLC0415
    from blkxact.qapi.validation import validate_keyval  # noqa: PLC0415

    from .nbd.options import modern  # noqa: PLC0415

    given = with_sizes(
        {name: _with_protocols(value, is_device) for name, value in modern(options).items()}
    )
    probed = "driver" not in given
    if given.get("backing", ...) is None and not _may_have_backing(given.get("driver")):
        del given["backing"]  # as in QEMU, where every driver may be told that it has none
    if probed and "file" not in given:
        raise QmpError("Must specify either driver or file")
    try:
        wire: dict[str, Any] = validate_keyval(
            BlockdevOptions, {"driver": "raw", **given} if probed else given
        ).to_wire()
    except QmpError as error:
        raise QmpError(_said_of_names(error.desc)) from error
    if probed:
        del wire["driver"]
    return wire


def _may_have_backing(driver: Any) -> bool:
    known = isinstance(driver, str) and driver in DRIVERS
    return not known or find_driver(driver).supports_backing


def _said_of_names(text: str) -> str:
    """Return a refusal by the schema in the words of opening a name, where they differ."""
    if text == "Parameter 'filename' is missing":
        return "The 'file' block driver requires a file name"
    if found := re.fullmatch(r"Parameter '(?:.+\.)?(file|image)' is missing", text):
        return f'A block device must be specified for "{found[1]}"'
    if found := re.fullmatch(r"Parameter '(?:.+\.)?driver' does not accept value '(.*)'", text):
        return f"Unknown driver '{found[1]}'"
    return text


def _with_protocols(options: Any, is_device: IsDevice) -> Any:
    """Name the drivers that follow from filenames, here and in all that is within."""
    if isinstance(options, list):
        return [_with_protocols(one, is_device) for one in options]
    if not isinstance(options, dict):
        return options
    result = {name: _with_protocols(value, is_device) for name, value in options.items()}
    filename = result.get("filename")
    if isinstance(filename, str) and not result.keys() & {"driver", "file"}:
        del result["filename"]
        result = {**protocol_options(filename, is_device), **result}
    return result


def protocol_options(filename: str, is_device: IsDevice) -> dict[str, Any]:
    """Return the options of the protocol node for a filename; raises ``QmpError``.

    ``is_device`` is that of the ``Storage`` in which a plain name is looked up.
    """
    protocol = protocol_of(filename)
    if not protocol:
        return file_options(filename, is_device)
    if protocol not in PROTOCOLS:
        raise QmpError(f"Unknown protocol '{protocol}'")
    return find_driver(PROTOCOLS[protocol]).parse_filename(filename)


def file_options(path: str, is_device: IsDevice) -> dict[str, Any]:
    """Return the options of the node for a file or a device, whatever its name looks like."""
    return {"driver": "host_device" if is_device(path) else "file", "filename": path}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of both, of objects too; where both have one it is that of ``above``."""
    result = {**below, **above}
    for name, member in above.items():
        if isinstance(member, Mapping) and isinstance(below.get(name), Mapping):
            result[name] = merged(below[name], member)
    return result
