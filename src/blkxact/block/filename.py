"""Names of images: protocols before a colon, ``json:`` options, and names relative to an image.

QEMU's counterpart: ``path_combine``, ``bdrv_find_protocol`` and ``parse_json_filename`` in
``block.c``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from blkxact.errors import QmpError
from blkxact.qapi.dotted import Path, descend, with_lists

JSON_PREFIX = "json:"


def protocol_of(filename: str) -> str:
    """Return what stands before the first colon, or "" if a slash comes first or there is none."""
    head, colon, _ = filename.partition(":")
    return head if colon and "/" not in head else ""


def is_absolute(filename: str) -> bool:
    """Return whether the name means the same wherever it is written."""
    return filename.startswith("/") or bool(protocol_of(filename))


def combine(base: str, filename: str) -> str:
    """Return ``filename`` as it is meant in the image ``base``: relative to its directory."""
    if is_absolute(filename):
        return filename
    protocol = protocol_of(base)
    start = len(protocol) + 1 if protocol else 0
    directory = base.rfind("/") + 1
    return base[: max(start, directory)] + filename


def parse_json(filename: str) -> dict[str, Any]:
    """Return the options of a ``json:{...}`` name, nested; raises ``QmpError``."""
    try:
        options = parse_json_text(filename.removeprefix(JSON_PREFIX))
    except QmpError as error:
        raise QmpError(f"Could not parse the JSON options: {error.desc}") from error
    if not isinstance(options, dict):
        raise QmpError("Invalid JSON object given")
    return nested(options)


def parse_json_text(text: str) -> Any:
    """Return the one value of a text, as QMP's clients write it; raises ``QmpError``."""
    from blkxact.qmp.json_stream import NEED_DATA, JsonStream  # noqa: PLC0415 - few names are JSON

    stream = JsonStream()
    stream.feed(os.fsencode(text) + b"\n")
    value = stream.next_value()
    if value is NEED_DATA and text.strip():
        raise QmpError("JSON parse error, premature EOI")
    if value is NEED_DATA or stream.next_value() is not NEED_DATA:
        raise QmpError("JSON parse error, expecting value")
    return value


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options whose dotted names (``file.filename``) are made objects in objects.

    An object whose members are numbered from 0 on is a list. Raises ``QmpError``.
    """
    result: dict[str, Any] = with_lists(_nested(options), _is_list)
    return result


def _is_list(path: Path, names: Collection[str]) -> bool:
    return bool(path and names) and set(names) == set(map(str, range(len(names))))


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split(".")
        place = descend(result, path, partial(_conflict, path))
        if isinstance(value, Mapping):
            inner = place.setdefault(last, {})
            if not isinstance(inner, dict):
                raise _conflict([last], 1)
            inner.update(_nested(value))
        else:
            place[last] = value
    return result


def _conflict(path: list[str], depth: int) -> QmpError:
    return QmpError(f"Parameter '{path[depth - 1]}' is both a value and an object")
