"""What a storage has been asked to write, and which of it is sure to be there after a power loss.

The fault model:

* A flush makes durable what had been *completed* when the flush *began*. Nothing else is sure.
* Of what is not durable each change may be there, be lost, or be there in parts. Parts begin and
  end at sectors of 512 bytes; a sector is never torn. Changes may have reached the disk in any
  order.
* The length of a file is a change like others. Names of files are durable at once: what is tested
  is images, not directories.
* No bit rots, and a flush does not lie.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from blkxact.block.types import SECTOR

from .sparse import SparseBytes

MAX_CUTS = 8
"""A torn change falls into at most so many parts, every other of which is lost."""


class Kind(Enum):
    """What a change does."""

    WRITE = auto()
    ZERO = auto()
    UNMAP = auto()
    PUNCH = auto()
    TRUNCATE = auto()


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one file. ``length`` of a truncation is the file's new one."""

    file: int
    kind: Kind
    offset: int
    length: int
    data: bytes = b""

    def apply(self, content: SparseBytes) -> None:
        """Do it."""
        if self.kind is Kind.WRITE:
            content.write(self.offset, self.data)
        elif self.kind is Kind.TRUNCATE:
            content.truncate(self.length)
        elif self.kind is Kind.PUNCH:
            content.punch(self.offset, self.length)
        else:
            content.zero(self.offset, self.length, unmap=self.kind is Kind.UNMAP)

    def part(self, start: int, stop: int) -> Change:
        """Return what the change does to the bytes ``[start, stop)`` of the file."""
        data = self.data[start - self.offset : stop - self.offset]
        return replace(self, offset=start, length=stop - start, data=data)

    def torn(self, source: random.Random) -> list[Change]:
        """Return some parts of the change, cut at sectors."""
        end = self.offset + self.length
        inner = range(self.offset // SECTOR + 1, -(-end // SECTOR))
        if self.kind is Kind.TRUNCATE or not inner:
            return [self] if source.random() < 0.5 else []
        count = source.randint(1, min(MAX_CUTS, len(inner)))
        cuts = [cut * SECTOR for cut in sorted(source.sample(inner, count))]
        bounds = [self.offset, *cuts, end]
        kept = source.randrange(2)
        parts = [self.part(low, high) for low, high in itertools.pairwise(bounds)]
        return parts[kept::2]


@dataclass(slots=True)
class Disk:
    """What is durable, what may be there as well, and the names of the files."""

    durable: dict[int, SparseBytes] = field(default_factory=dict)
    pending: dict[int, Change] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)

    def contents(self) -> dict[int, SparseBytes]:
        """Return copies of the durable contents."""
        return {file: content.copy() for file, content in self.durable.items()}

    def crashed(self, source: random.Random) -> dict[int, SparseBytes]:
        """Return the contents after a power loss."""
        contents = self.contents()
        pending = list(self.pending.values())
        # Sometimes nearly all survives and sometimes nearly nothing: both find their own mistakes.
        keep = source.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        tear = source.choice([0.0, 0.3, 1.0])
        if source.random() < 0.7:
            source.shuffle(pending)
        for change in pending:
            if source.random() < tear:
                parts = change.torn(source)
            else:
                parts = [change] if source.random() < keep else []
            for part in parts:
                part.apply(contents[part.file])
        return contents


@dataclass(frozen=True, slots=True)
class Event:
    """One step of the history: a change, a flush, or new names."""

    number: int = 0
    change: Change | None = None
    flushed: frozenset[int] = frozenset()
    names: dict[str, int] | None = None


class Journal:
    """Takes down changes and flushes. With ``history`` it forgets nothing."""

    def __init__(self, *, history: bool = False) -> None:
        self.disk = Disk()
        self.events: list[Event] | None = [] if history else None
        self._start = Disk()
        self._completed: set[int] = set()
        self._next = 0

    def checkpoint(self, disk: Disk) -> None:
        """Restart the history here."""
        self.disk = disk
        self._start = Disk(disk.contents(), dict(disk.pending), dict(disk.names))
        if self.events is not None:
            self.events.clear()

    def names(self, names: dict[str, int]) -> None:
        """Note which files there are."""
        self._take(Event(names=dict(names)))

    def begin(self, change: Change) -> int:
        """Note a change as it is made; return its number."""
        self._next += 1
        self._take(Event(self._next, change))
        return self._next

    def complete(self, number: int) -> None:
        """Note that the change was acknowledged."""
        self._completed.add(number)

    def flushing(self, file: int) -> frozenset[int]:
        """Return the changes that a flush which begins now is to make durable."""
        return frozenset(
            number
            for number, change in self.disk.pending.items()
            if change.file == file and number in self._completed
        )

    def flushed(self, numbers: frozenset[int]) -> None:
        """Note that a flush is done."""
        self._completed -= numbers
        self._take(Event(flushed=numbers))

    def disks(self) -> Iterator[Disk]:
        """Yield the disk as it was at first and after each event; each is changed by the next."""
        assert self.events is not None, "a storage without history"
        start = self._start
        disk = Disk(start.contents(), dict(start.pending), dict(start.names))
        yield disk
        for event in self.events:
            _follow(disk, event)
            yield disk

    def states(self) -> Iterator[tuple[dict[str, int], dict[int, SparseBytes]]]:
        """Yield names and contents after none, the first, the second... of the changes.

        What is yielded is changed by the next step.
        """
        assert self.events is not None, "a storage without history"
        contents, names = self._start.contents(), self._start.names
        for change in self._start.pending.values():
            change.apply(contents[change.file])
        yield names, contents
        for event in self.events:
            if event.names is not None:
                names = event.names
                for file in names.values():
                    contents.setdefault(file, SparseBytes())
            elif event.change is not None:
                event.change.apply(contents[event.change.file])
            else:
                continue
            yield names, contents

    def _take(self, event: Event) -> None:
        _follow(self.disk, event)
        if self.events is not None:
            self.events.append(event)


def _follow(disk: Disk, event: Event) -> None:
    """Let the disk go on by one event."""
    if event.change is not None:
        disk.pending[event.number] = event.change
    for number in sorted(event.flushed):
        change = disk.pending.pop(number, None)
        if change is not None:  # another flush may have been faster
            change.apply(disk.durable[change.file])
    if event.names is not None:
        disk.names = event.names
        for file in event.names.values():
            disk.durable.setdefault(file, SparseBytes())
