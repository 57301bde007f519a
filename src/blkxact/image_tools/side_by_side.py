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
from blkxact.storage.api import Area, StorageFile
from blkxact.storage.api import Pair as TwoFiles
from blkxact.storage.scan import Run

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
        """The first byte after it."""
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


async def differences_in_files(pairs: Sequence[Pair], unit: int) -> list[list[Run]] | None:
    """Return for each pair the blocks that differ, counted from its start, and if mine is zero.

    None: not all of it lies in files. Raises ``OSError`` for what cannot be read.
    """
    found: list[list[Run]] = [[] for _ in pairs]
    in_two: list[tuple[int, TwoFiles]] = []
    beside_zeroes: list[tuple[int, Area]] = []
    for number, pair in enumerate(pairs):
        if pair.is_equal:
            continue
        mine, yours = _file(pair.mine), _file(pair.yours)
        if mine is not None and yours is not None:
            both = mine, pair.mine_at(), yours, pair.yours_at(), pair.length
            in_two.append((number, both))
        elif mine is not None and pair.yours.status & Status.ZERO:
            beside_zeroes.append((number, (mine, pair.mine_at(), pair.length, 0)))
        elif yours is not None and pair.mine.status & Status.ZERO:
            beside_zeroes.append((number, (yours, pair.yours_at(), pair.length, 0)))
        else:
            return None
    if in_two:
        places = [place for _, place in in_two]
        answers = await places[0][0].differences(places, unit)
        for (number, _), runs in zip(in_two, answers, strict=True):
            found[number] = runs
    if beside_zeroes:
        areas = [area for _, area in beside_zeroes]
        answer = await areas[0][0].zero_runs(areas, unit)
        for (number, _), parts in zip(beside_zeroes, answer, strict=True):
            mine_is_zero = bool(pairs[number].mine.status & Status.ZERO)
            found[number] = [(part[0], part[1], mine_is_zero) for part in parts if not part[2]]
    return found


def _file(extent: Extent) -> StorageFile | None:
    return extent.file if extent.status & Status.DATA and not extent.status & Status.ZERO else None
