"""Bytes of a disk, which are compared as bytes and shown as what a person can read."""

from __future__ import annotations

import hashlib
from typing import Final

SHOWN: Final = 64
"""Bytes up to which they are shown themselves."""


class Contents(bytes):
    """What a disk holds.

    Its ``repr`` is short: pytest compares those of two values line by line when an assertion fails,
    on CI all of them, which takes minutes for a few MiB.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        if len(self) <= SHOWN:
            return super().__repr__()
        return f"<{len(self)} bytes, SHA-256 {hashlib.sha256(self).hexdigest()[:16]}>"
