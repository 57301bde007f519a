"""What a disk holds, by the model: a write stamp for each sector.

A sector is ``STAMP`` repeated, so the model compares bytes and can tell whose write it found.
A write that failed may have changed each of its sectors or not: these are in ``maybe``.

What was written since the last flush may be lost when the process is killed, as in QEMU, whose
format drivers keep metadata in memory: ``unflushed`` has all that such a sector may go back to.
"""

from __future__ import annotations

from functools import lru_cache

SECTOR = 512


@lru_cache(maxsize=4096)
def pattern(stamp: int) -> bytes:
    """Return the sector that a write with this stamp leaves; stamp 0 are zeroes."""
    return stamp.to_bytes(4, "big") * (SECTOR // 4)


class Contents:
    """``stamps`` by sector; ``maybe``: sectors that may hold one of several stamps."""

    def __init__(self, size: int) -> None:
        assert size % SECTOR == 0
        self.size = size
        self.stamps = [0] * (size // SECTOR)
        self.maybe: dict[int, frozenset[int]] = {}
        self.unflushed: dict[int, list[tuple[int, frozenset[int]]]] = {}
        """For a sector: when it was written, and what it may hold since."""
        self.writes = 0

    def copy(self) -> Contents:
        other = Contents(0)
        other.size = self.size
        other.stamps = self.stamps.copy()
        other.maybe = self.maybe.copy()
        return other

    def write(self, offset: int, length: int, stamp: int) -> None:
        self._note(offset, length, stamp, surely=True)
        first, count = offset // SECTOR, length // SECTOR
        self.stamps[first : first + count] = [stamp] * count
        if self.maybe:
            for sector in range(first, first + count):
                self.maybe.pop(sector, None)

    def write_maybe(self, offset: int, length: int, stamp: int) -> None:
        """Note a write that may have been made, in part or not at all (or a discard)."""
        self._note(offset, length, stamp, surely=False)
        for sector in range(offset // SECTOR, (offset + length) // SECTOR):
            self.maybe[sector] = self.possible(sector) | {stamp}

    def _note(self, offset: int, length: int, stamp: int, *, surely: bool) -> None:
        self.writes += 1
        for sector in range(offset // SECTOR, (offset + length) // SECTOR):
            before = self.possible(sector)
            history = self.unflushed.setdefault(sector, [(0, before)])
            after = frozenset({stamp}) if surely else before | {stamp}
            history.append((self.writes, after))

    def flushed(self, writes: int) -> None:
        """Note that what was written up to that number is not lost any more."""
        for sector, history in list(self.unflushed.items()):
            while len(history) > 1 and history[1][0] <= writes:
                del history[0]
            if len(history) == 1:
                del self.unflushed[sector]

    def killed(self) -> None:
        """The process was killed: what was not flushed may be there or not."""
        for sector, history in self.unflushed.items():
            every = frozenset[int]().union(*(stamps for _, stamps in history))
            self.maybe[sector] = self.possible(sector) | every
        self.unflushed.clear()

    def possible(self, sector: int) -> frozenset[int]:
        return self.maybe.get(sector) or frozenset({self.stamps[sector]})

    def expected(self) -> bytes:
        return b"".join(map(pattern, self.stamps))

    def differences(self, data: bytes, offset: int = 0) -> list[int]:
        """Return the sectors in which ``data``, found at ``offset``, is not what may be there."""
        first = offset // SECTOR
        sectors = range(first, first + len(data) // SECTOR)
        if b"".join(pattern(self.stamps[sector]) for sector in sectors) == data:
            return []
        return [
            sector
            for sector in sectors
            if all(
                data[(sector - first) * SECTOR : (sector - first + 1) * SECTOR] != pattern(stamp)
                for stamp in self.possible(sector)
            )
        ]

    def learn(self, data: bytes) -> None:
        """Narrow ``maybe`` by what was read of the whole disk."""
        for sector, stamps in self.maybe.items():
            found = data[sector * SECTOR : (sector + 1) * SECTOR]
            self.stamps[sector] = next(stamp for stamp in stamps if pattern(stamp) == found)
        self.maybe.clear()


def describe(sectors: list[int], contents: Contents, data: bytes, offset: int = 0) -> str:
    """Tell what differs."""
    lines = []
    for sector in sectors[:8]:
        at = sector * SECTOR - offset
        found = int.from_bytes(data[at : at + 4], "big")
        wanted = sorted(contents.possible(sector))
        lines.append(f"sector {sector} (0x{sector * SECTOR:x}) holds {found}, not {wanted}")
    if len(sectors) > len(lines):
        lines.append(f"and {len(sectors) - len(lines)} more")
    return "; ".join(lines)
