"""Guessing the format of an image by its first sector, for images whose format nobody gave.

QEMU's counterpart: ``bdrv_probe_all`` in ``block.c`` and the probe functions of its drivers.
"""

from __future__ import annotations

from typing import Final

from blkxact.storage.api import Buffer

PROBE_SIZE: Final = 512
"""How many bytes are looked at (BLOCK_PROBE_BUF_SIZE)."""

MARKS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"QFI\xfb\x00\x00\x00\x01", "qcow"),
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\x00", "qed"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
)
"""Where a format has its mark, the mark, and the BlockdevDriver."""


def probe_format(start: Buffer) -> str:
    """Return the BlockdevDriver whose mark the first sector bears, or ``raw``."""
    sector = bytes(start[:PROBE_SIZE])
    for offset, mark, name in MARKS:
        if sector.startswith(mark, offset):
            return name
    return "raw"
