"""What the block sizes of a server mean for requests.

QEMU's counterpart: nbd_refresh_limits() in ``block/nbd.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blkxact.block.types import SECTOR
from blkxact.nbd.client_handshake import ExportInfo
from blkxact.nbd.protocol import MAX_PAYLOAD

INT_MAX: Final = (1 << 31) - 1


def alignment(info: ExportInfo) -> int:
    """Return the multiples in which requests are made.

    A server that does not report it takes any, if its size shows that, or if it reports holes at
    any place; an old one may not.
    """
    if info.minimum_block:
        return info.minimum_block
    return 1 if info.size % SECTOR or info.context is not None else SECTOR


def limits_of(info: ExportInfo) -> Mapping[str, int]:
    """Return what of BlockLimitsInfo the server decides."""
    unit = alignment(info)
    most = min(info.maximum_block or MAX_PAYLOAD, MAX_PAYLOAD)
    limits = {
        "request-alignment": unit,
        "max-discard": INT_MAX - INT_MAX % unit,
        "max-write-zeroes": most,
        "max-transfer": most,
    }
    return limits | ({"opt-transfer": info.preferred_block} if info.preferred_block else {})
