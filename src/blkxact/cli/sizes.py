"""Sizes as people write and read them.

QEMU's counterpart: ``util/cutils.c`` (qemu_strtosz), whose suffixes are powers of 1024.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from .errors import CliError

MAX_SIZE: Final = 2**63 - 1
_SUFFIXES: Final = "BKMGTPE"
_SIZE: Final = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)([bkmgtpeBKMGTPE]?)")


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` stands for: ``65536``, ``64k``, ``1.5G``, ``0x10000``.

    A fraction of a byte is none. Raises ``CliError``.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise CliError(_explain(text))
    number, suffix = match.groups()
    if number[:2] in ("0x", "0X"):
        if suffix:
            raise CliError(_explain(text))
        size = int(number, 16)
    else:
        if number.partition(".")[2].strip("0") and suffix in ("", "b", "B"):
            raise CliError(_explain(text))
        size = int(
            Fraction(number.rstrip(".") or "0") * 1024 ** _SUFFIXES.index(suffix.upper() or "B")
        )
    if size > MAX_SIZE:
        raise CliError(f"Invalid size '{text}': it must be less than 8 EiB")
    return size


def human_size(size: float) -> str:
    """Return ``size`` in three significant digits with a binary unit: ``196 KiB``, ``1.5 GiB``."""
    units = iter(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    while round(size, 3) >= 999.5:  # three digits at most before the unit changes, as qemu-img
        unit, size = next(units, "EiB"), size / 1024
        if unit == "EiB":
            break
    return f"{size:.3g} {unit}"


def _explain(text: str) -> str:
    return f"Invalid size '{text}': a number with one of the suffixes k, M, G, T, P, E is expected"
