"""The ``qemu-img`` of ``blkxact shim``: blkxact's verbs, and the real program for all others.

QEMU's counterpart: ``qemu-img.c``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from .image import VERBS

PROGRAM: Final = "qemu-img"


def main(words: Sequence[str], real: str | None) -> int:
    """Run a verb as ``blkxact image`` does, or hand everything to the program at ``real``."""
    from .main import main as blkxact  # noqa: PLC0415 - not needed to hand on

    verb = next((word for word in words if not word.startswith("-")), None)
    if real is not None and verb is not None and verb not in VERBS:
        os.execv(real, [PROGRAM, *words])  # noqa: S606 - the user's own qemu-img
    return blkxact(["image", *words], PROGRAM)
