"""Sizes as a person writes them: ``64k``, ``1.5G``, ``0x200``.

QEMU's counterpart: ``qemu_strtosz`` in ``util/cutils.c``, whose suffixes are powers of 1024.
"""

from __future__ import annotations

import math
import re
from typing import Final

UNITS: Final = "bkmgtpe"
_SIZE: Final = re.compile(r"\s*\+?(?:0[xX]([0-9a-fA-F]+)|([0-9]+(?:\.[0-9]*)?))([bkmgtpeBKMGTPE]?)")
_MAX_DIGITS: Final = 100


def parse_size(text: str, unit: str = "b") -> int | None:
    """Return the bytes that ``text`` stands for, however many; ``None`` if it is no size.

    ``unit`` is the suffix that is meant where there is none. A fraction needs a suffix, and is
    rounded to the nearest byte.
    """
    found = _SIZE.fullmatch(text)
    if found is None or len(text) > _MAX_DIGITS:
        return None
    hexadecimal, decimal, suffix = found.groups()
    scale: int = 1024 ** UNITS.index((suffix or unit).lower())
    if hexadecimal:
        return int(hexadecimal, 16) * scale
    whole, _, fraction = decimal.partition(".")
    if scale == 1 and fraction.strip("0"):
        return None
    one: int = 10 ** len(fraction)
    return (int(whole + fraction) * scale * 2 + one) // (2 * one)


def human_size(value: float) -> str:
    """Return three significant digits with a unit: ``4 MiB``, ``0.98 GiB``."""
    # From 1000 of a unit on the next one is used, as 4 digits would not fit.
    _, exponent = math.frexp(value / (1000 / 1024))
    step = (exponent - 1) // 10 if value else 0
    return f"{value / (1 << 10 * step):.3g} {('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei')[step]}B"
