"""What each disk held at every instant, as far as the guest's writes show.

Writes are whole pages, and each page says which write it is from: number and page, repeated. So
what a page of a restored disk holds names the only instants at which the disk held the same.

Instants are seconds of the system's monotonic clock, which all processes share. While a write is
under way the page may hold the old or the new.
"""

from __future__ import annotations

import math
import random
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

PAGE: Final = 4096
MAX_PAGES: Final = 24
"""Of one write."""
AREA: Final = 4 << 20
"""Bytes at the begin of a disk into which most writes go, so that they overlap."""
_STAMP: Final = struct.Struct("<II")
GARBAGE: Final = -1
"""What no write put there."""


class Write(NamedTuple):
    """Neighbouring pages that the guest writes at a time."""

    number: int
    disk: str
    page: int
    length: int
    """In pages."""

    def data(self) -> bytes:
        """Return what is written."""
        return b"".join(page_of(self.number, page) for page in self.pages)

    @property
    def pages(self) -> range:
        """The numbers of the pages."""
        return range(self.page, self.page + self.length)


def page_of(number: int, page: int) -> bytes:
    """Return what a page holds after a write of that number; 0 is a page never written."""
    return bytes(PAGE) if number == 0 else _STAMP.pack(number, page) * (PAGE // _STAMP.size)


def number_in(data: bytes, page: int) -> int:
    """Return the number of the write that a page is from, or ``GARBAGE``."""
    number, _ = _STAMP.unpack_from(data)
    return number if data == page_of(number, page) else GARBAGE


def random_writes(
    source: random.Random, first: int, disks: dict[str, int], each: int
) -> Iterator[Write]:
    """Yield ``each`` writes for each disk (name to size), numbered from ``first``."""
    number = first
    for _ in range(each):
        for disk, size in disks.items():
            count = source.choice((1, 1, 2, 8, 16, MAX_PAGES))
            area = min(size, AREA) if source.random() < 0.8 else size
            page = source.randrange(area // PAGE - count + 1)
            yield Write(number, disk, page, count)
            number += 1


class Version(NamedTuple):
    """What a page holds from some instant on."""

    number: int
    begin: float
    end: float


@dataclass
class History:
    """The versions of each page that was ever written, the oldest first."""

    pages: dict[str, dict[int, list[Version]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    open: dict[int, tuple[Write, float]] = field(default_factory=dict)
    """Writes under way, and since when."""
    instants: list[float] = field(default_factory=list)
    """When writes began and ended."""
    period: str = ""
    """In words, what goes on now: ``before call 2``."""
    periods: dict[int, str] = field(default_factory=dict)
    """Number of a write to when it began."""

    def begin(self, write: Write, at: float) -> None:
        """Note that a write is begun."""
        self.open[write.number] = (write, at)
        self.periods[write.number] = self.period
        self.instants.append(at)
        for page in write.pages:
            self.pages[write.disk][page].append(Version(write.number, at, math.inf))

    def end(self, number: int, at: float) -> None:
        """Note that a write is done."""
        write, _ = self.open.pop(number)
        self.instants.append(at)
        for page in write.pages:
            versions = self.pages[write.disk][page]
            versions[:] = [
                version._replace(end=at) if version.number == number else version
                for version in versions
            ]

    def settle(self, disk: str, found: dict[int, int], at: float) -> list[int]:
        """Note what the pages of a disk hold after a restart; return those that lost a write."""
        lost = []
        for page, number in found.items():
            versions = self.pages[disk][page]
            settled = [version for version in versions if version.end < math.inf]
            last = settled[-1].number if settled else 0
            possible = {last, *(each.number for each in versions if each.end == math.inf)}
            if number not in possible:
                lost.append(page)
            versions[:] = [
                version._replace(end=at) if version.end == math.inf else version
                for version in versions
            ]
            versions.append(Version(number, at, at))
        self.instants.append(at)
        return lost

    def forget_open(self) -> None:
        """Note that no write is under way any more (the emulator is gone)."""
        self.open.clear()

    def allowed(self, disk: str, page: int, at: float) -> set[int]:
        """Return the numbers that a page may show at an instant."""
        versions = self.pages[disk].get(page, [])
        possible = {0}
        for version in versions:
            if version.begin > at:
                break
            if version.end <= at:
                possible = {version.number}
            else:
                possible.add(version.number)
        return possible
