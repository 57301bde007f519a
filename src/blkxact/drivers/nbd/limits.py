"""What the block sizes of a server mean for requests.

QEMU's counterpart: nbd_refresh_limits() in ``block/nbd.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blkxact.block.types import SECTOR
from blkxact.nbd.client_handshake import ExportInfo
from blkxact.nbd.protocol import MAX_PAYLOAD, Mode

INT_MAX: Final = (1 << 31) - 1
NO_LIMIT: Final = 1 << 63
"""Bytes: more than any export has."""


def alignment(info: ExportInfo) -> int:
    """Return the multiples in which requests are made.

    A server that does not report it takes any, if its size shows that, or if it reports holes at
    any place; an old one may not.
    """
    if info.minimum_block:
        return info.minimum_block
    return 1 if info.size % SECTOR or info.context is not None else SECTOR


def max_payload(info: ExportInfo) -> int:
    """Return how many bytes a request may read or write."""
    return min(info.maximum_block or MAX_PAYLOAD, MAX_PAYLOAD)


def max_status(info: ExportInfo) -> int:
    """Return the most bytes of a discard, or of a range whose status is asked for."""
    unit = alignment(info)
    return NO_LIMIT if info.mode is Mode.EXTENDED else INT_MAX - INT_MAX % unit


def max_zeroes(info: ExportInfo) -> int:
    """Return the most bytes of a range to be zeroed.

    A server that has extended headers is assumed to take any number, as QEMU does.
    """
    return NO_LIMIT if info.mode is Mode.EXTENDED else max_payload(info)


def limits_of(info: ExportInfo) -> Mapping[str, int]:
    """Return what of BlockLimitsInfo the server decides."""
    limits = {"request-alignment": alignment(info), "max-transfer": max_payload(info)}
    if info.mode is not Mode.EXTENDED:
        limits |= {"max-discard": max_status(info), "max-write-zeroes": max_zeroes(info)}
    return limits | ({"opt-transfer": info.preferred_block} if info.preferred_block else {})
