"""Two disks side by side: what of them may differ by what their maps say, and what does.

Invariants:

* Ranges that both maps call zeroes are equal without a look.
* What lies in files as it is, on both sides or beside zeroes, is compared there, in a thread, many
  ranges at a time. For all else ``differences_in_files`` has no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blkxact.block.types import Extent, Status
from blkxact.storage.api import StorageFile

BATCH = 8 << 20
"""Most bytes of the disks that are compared at a time."""


class Pair(NamedTuple):
    """A range that is of one kind on either side."""

    offset: int
    length: int
    mine: Extent
    yours: Extent

    @property
    def end(self) -> int:
        """The first byte behind."""
        return self.offset + self.length

    @property
    def is_equal(self) -> bool:
        """Whether both sides are zeroes by what the maps say."""
        return bool(self.mine.status & self.yours.status & Status.ZERO)

    def steps(self, size: int) -> Iterator[Pair]:
        """Cut the range into pieces of ``size`` bytes."""
        for start in range(self.offset, self.end, size):
            yield self._replace(offset=start, length=min(size, self.end - start))

    def mine_at(self) -> int:
        """Return where in my file the range begins."""
        return self.mine.file_offset + self.offset - self.mine.offset

    def yours_at(self) -> int:
        """Return where in your file the range begins."""
        return self.yours.file_offset + self.offset - self.yours.offset


def side_by_side(mine: Sequence[Extent], yours: Sequence[Extent]) -> list[Pair]:
    """Return the pairs of two maps, which cover the same range."""
    pairs = []
    ours, theirs = iter(mine), iter(yours)
    left, right = next(ours), next(theirs)
    offset = left.offset
    while True:
        left_end, right_end = left.offset + left.length, right.offset + right.length
        end = min(left_end, right_end)
        pairs.append(Pair(offset, end - offset, left, right))
        offset = end
        if left_end == end:
            following = next(ours, None)
            if following is None:
                return pairs
            left = following
        if right_end == end:
            right = next(theirs)


async def differences_in_files(
    pairs: Sequence[Pair], unit: int
) -> list[list[tuple[int, int]]] | None:
    """Return for each pair the ``(start, stop)``, counted from its start, of blocks that differ.

    None: not all of it lies in files. Raises ``OSError`` for what cannot be read.
    """
    groups: dict[tuple[StorageFile | None, StorageFile | None], list[int]] = {}
    found: list[list[tuple[int, int]]] = [[] for _ in pairs]
    for number, pair in enumerate(pairs):
        if pair.is_equal:
            continue
        files = _file(pair.mine), _file(pair.yours)
        zeroes = pair.mine.status & Status.ZERO, pair.yours.status & Status.ZERO
        if any(file is None and not zero for file, zero in zip(files, zeroes, strict=True)):
            return None
        groups.setdefault(files, []).append(number)
    for (mine, yours), numbers in groups.items():
        some = [pairs[number] for number in numbers]
        for number, runs in zip(numbers, await _in_files(mine, yours, some, unit), strict=True):
            found[number] = runs
    return found


def _file(extent: Extent) -> StorageFile | None:
    return extent.file if extent.status & Status.DATA and not extent.status & Status.ZERO else None


async def _in_files(
    mine: StorageFile | None, yours: StorageFile | None, pairs: Sequence[Pair], unit: int
) -> list[list[tuple[int, int]]]:
    """Compare ranges of two files, or of one with zeroes."""
    if mine is not None and yours is not None:
        places = [(pair.mine_at(), pair.yours_at(), pair.length) for pair in pairs]
        return await mine.differences(yours, places, unit)
    file = mine or yours
    assert file is not None
    areas = [(pair.mine_at() if mine else pair.yours_at(), pair.length, 0) for pair in pairs]
    return [
        [(start, stop) for start, stop, zero in runs if not zero]
        for runs in await file.zero_runs(areas, unit)
    ]
