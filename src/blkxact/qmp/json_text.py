"""The encoder of all JSON that leaves the program: always ASCII, always valid.

A reply of a monitor is one line, ended with CR LF, and its members are in the order of QEMU's hash
table, as there are scripts that compare texts. The command line prints indented texts. A byte
that is not UTF-8, which Python has as a lone surrogate, becomes U+FFFD as in QEMU.

The spacing is QEMU's (``{"return": {}}``), as there are scripts that grep for it; that is why
``pydantic_core.to_json``, which writes none, is not used. QEMU's counterpart:
``qobject/json-writer.c``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final

from .qdict import ordered

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_encoder = json.JSONEncoder(allow_nan=False, check_circular=False)


def _make_encode() -> Callable[[Any], str]:
    """Return the encoder's ``encode``, less the making of a C encoder at each call.

    That halves the time of a short reply; without the C encoder there is the ordinary way.
    """
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _encoder.encode
    escape = json.encoder.encode_basestring_ascii
    chunks = make(None, _encoder.default, escape, None, ": ", ", ", False, False, False)
    return lambda value: "".join(chunks(value, 0))


_encode = _make_encode()

_EMPTY: Final = re.compile(r"^( *)(.*[{\[])([}\]])(?=,?$)", re.MULTILINE)
"""An object or list without members, which QEMU closes on a line of its own. (No text ends so: it
ends with a quote.)"""


def encode(value: Any) -> bytes:
    """Return the line for a value of dicts, lists, strings, numbers, booleans and None."""
    return _encode_line(_ordered(value)).encode("ascii") + b"\r\n"


def encode_text(value: Any, indent: int | None = None) -> str:
    """Return the JSON text of such a value, on one line or indented by so many blanks a level.

    A value that cannot be indented (nested beyond Python's limit, or with a number too large for a
    float) is returned on one line.
    """
    line = _encode_line(value)
    if indent is None:
        return line
    try:
        return json.dumps(json.loads(line), indent=indent, allow_nan=False)
    except (RecursionError, ValueError):
        return line


def _encode_line(value: Any) -> str:
    try:
        text = _encode(value)
    except (RecursionError, ValueError):
        text = _encode_thoroughly(value)
    if "\\ud" in text:
        text = _encode_thoroughly(value)
    return text


def encode_pretty(value: Any) -> bytes:
    """Return the value spread over lines, for a monitor with ``pretty=on``."""
    text = _EMPTY.sub(r"\1\2\n\1\3", encode_text(_ordered(value), indent=4))
    return text.replace("\n", "\r\n").encode("ascii") + b"\r\n"


def _ordered(value: Any) -> Any:
    try:
        return ordered(value)
    except RecursionError:  # an ``id``: it is returned as it came
        return value


def _encode_scalar(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(_LONE_SURROGATE.sub("\ufffd", value))
    if isinstance(value, float) and not math.isfinite(value):
        return "1e999" if value > 0 else "-1e999"
    return json.dumps(value)


class _Text(str):
    """A part of the output, not a value."""

    __slots__ = ()


def _encode_thoroughly(value: Any) -> str:
    """Encode what the C encoder cannot.

    That is nesting beyond Python's limit (an ``id`` may have it), file names that are no UTF-8, and
    numbers too large for a float, which go out as large as they came in.
    """
    parts: list[str] = []
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, _Text):
            parts.append(item)
        elif isinstance(item, dict):
            parts.append("{")
            todo.append(_Text("}"))
            for count, (key, member) in enumerate(reversed(item.items())):
                todo += [_Text(", ")] * bool(count) + [member, _Text(_encode_scalar(key) + ": ")]
        elif isinstance(item, (list, tuple)):
            parts.append("[")
            todo.append(_Text("]"))
            for count, member in enumerate(reversed(item)):
                todo += [_Text(", ")] * bool(count) + [member]
        else:
            parts.append(_encode_scalar(item))
    return "".join(parts)
