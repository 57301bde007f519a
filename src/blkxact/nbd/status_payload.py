"""The payload of a BLOCK_STATUS: which of the negotiated metadata contexts it is about.

Source: the NBD protocol specification, "NBD_CMD_BLOCK_STATUS".
QEMU's counterpart: ``nbd/server.c`` (nbd_co_block_status_payload_read).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from .protocol import STATUS_PAYLOAD, U32


class StatusPayload(NamedTuple):
    """``length`` is that of the range; without contexts the payload is not valid."""

    length: int
    contexts: list[int]
    """In the order in which they are answered: that in which they were negotiated."""

    @classmethod
    def unpack(cls, payload: memoryview, negotiated: Collection[int]) -> StatusPayload:
        """Return what a payload says."""
        invalid = cls(0, [])
        numbers = len(payload) - STATUS_PAYLOAD.size
        if numbers < 0 or numbers % U32.size or numbers > U32.size * len(negotiated):
            return invalid
        (length,) = STATUS_PAYLOAD.unpack_from(payload)
        named = [number for (number,) in U32.iter_unpack(payload[STATUS_PAYLOAD.size :])]
        if len(set(named)) < len(named) or not set(named) <= set(negotiated):
            return invalid
        return cls(length, [number for number in negotiated if number in named])
