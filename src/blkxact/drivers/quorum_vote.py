"""What a quorum's children agree on: contents, why a request failed, and where zeroes are.

QEMU's counterpart: QuorumVotes and quorum_co_block_status() in ``block/quorum.c``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

from blkxact.block.types import Extent, Status

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.storage.api import Buffer

V = TypeVar("V", bound=Hashable)


class Votes(Generic[V]):
    """Who voted for which version."""

    def __init__(self, votes: Iterable[tuple[V, Child]]) -> None:
        self._versions: dict[V, list[Child]] = {}
        for version, child in votes:
            self._versions.setdefault(version, []).append(child)

    def winner(self) -> tuple[V, int]:
        """Return the version with most votes, the latest of several, and how many it has."""
        version = max(reversed(self._versions), key=lambda one: len(self._versions[one]))
        return version, len(self._versions[version])

    def against(self, winner: V) -> list[Child]:
        """Return the children with other versions, the latest first, as QEMU reports them."""
        others = [version for version in reversed(self._versions) if version != winner]
        return [child for version in others for child in reversed(self._versions[version])]


def first_difference(one: Buffer, other: Buffer) -> int:
    """Return the position of the first byte in which two buffers of one length differ."""
    pairs = enumerate(zip(one, other, strict=True))
    return next(at for at, (left, right) in pairs if left != right)


def common_extents(offset: int, length: int, answers: list[list[Extent]]) -> list[Extent]:
    """Return zeroes where all the answers have zeroes, and data elsewhere.

    Each answer covers the range. As in QEMU, the longest of the children's extents at a position
    is data, and the shortest one is zeroes.
    """
    result: list[Extent] = []
    position, end = offset, offset + length
    indices = [0] * len(answers)
    while position < end:
        zeroes, data = end - position, 0
        for child, extents in enumerate(answers):
            while extents[indices[child]].offset + extents[indices[child]].length <= position:
                indices[child] += 1
            extent = extents[indices[child]]
            rest = extent.offset + extent.length - position
            if extent.status & Status.ZERO:
                zeroes = min(zeroes, rest)
            else:
                data = max(data, rest)
        status = (Status.DATA if data else Status.ZERO) | Status.ALLOCATED
        result.append(Extent(position, data or zeroes, status))
        position += data or zeroes
    return result
