"""Sizes as people write them.

QEMU's counterpart: ``util/cutils.c`` (qemu_strtosz), whose suffixes are powers of 1024.
"""

from __future__ import annotations

import re
from typing import Final

from blkxact.qapi import sizes

from .errors import CliError

MAX_SIZE: Final = 2**63 - 1
_HEXADECIMAL_WITH_SUFFIX: Final = re.compile(r"0[xX].*[kKmMgGtTpP]")


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` stands for: ``65536``, ``64k``, ``1.5G``, ``0x10000``.

    A fraction of a byte is none. Raises ``CliError``.
    """
    number = text.strip()
    size = sizes.parse_size(f"0{number}" if number.startswith(".") else number)
    if size is None or number.startswith("+") or _HEXADECIMAL_WITH_SUFFIX.match(number):
        raise CliError(_explain(text))
    if size > MAX_SIZE:
        raise CliError(f"Invalid size '{text}': it must be less than 8 EiB")
    return size


def _explain(text: str) -> str:
    return f"Invalid size '{text}': a number with one of the suffixes k, M, G, T, P, E is expected"
