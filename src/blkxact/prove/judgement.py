"""Whether what a tool restores is what the disks held at one instant of its call."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .history import GARBAGE, PAGE, History, number_in, page_of

Restored = dict[int, int]
"""Page to the number of the write that it is from, for pages that are not zero."""


@dataclass(frozen=True)
class Difference:
    """Where a restored disk is wrong."""

    disk: str
    wrong_bytes: int
    first_byte: int
    """Offset of the first wrong byte."""
    held: str
    expected: str
    later: bool = False
    """Each wrong page is of some other moment, but none is of none."""
    pages: tuple[int, ...] = ()
    """The wrong pages, in order."""

    def ranges(self) -> list[list[int]]:
        """Return offset and length of what is wrong, in bytes."""
        found: list[list[int]] = []
        for page in self.pages:
            if found and sum(found[-1]) == page * PAGE:
                found[-1][1] += PAGE
            else:
                found.append([page * PAGE, PAGE])
        return found

    def __str__(self) -> str:
        size = f"{self.wrong_bytes >> 10} KiB"
        return (
            f"{self.disk}: {size} are wrong; at the first wrong byte, {self.first_byte:#x}, is"
            f" {self.held} instead of {self.expected}"
        )


def read_restored(path: Path, size: int) -> Restored | str:
    """Return what a restored disk holds, or why it cannot be one."""
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length != size:
                return f"has {length} bytes instead of {size}"
            found = {}
            for start, stop in _data(file.fileno(), size):
                for page in range(start // PAGE, -(-stop // PAGE)):
                    data = os.pread(file.fileno(), PAGE, page * PAGE)
                    if any(data):
                        found[page] = number_in(data, page)
            return found
    except FileNotFoundError:
        return "was not written"


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file that are no holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at


def judge(
    history: History,
    restored: Mapping[str, Restored],
    span: tuple[float, float],
    *,
    consistent: bool,
) -> list[Difference]:
    """Return what is wrong, nothing if all disks are as at one instant of the span.

    Not ``consistent``, each disk has an instant of its own. Of several instants the one at which
    the least is wrong counts.
    """
    instants = [*span, *(each for each in history.instants if span[0] <= each <= span[1])]
    groups = [list(restored)] if consistent else [[disk] for disk in restored]
    differences = []
    for group in groups:
        best = min(
            (_wrong_at(history, restored, group, at) for at in instants),
            key=lambda wrong: sum(map(len, wrong.values())),
        )
        differences += [
            _describe(history, disk, restored[disk], pages, span) for disk, pages in best.items()
        ]
    return differences


Wrong = dict[str, dict[int, set[int]]]
"""Disk to its wrong pages and what they were allowed to show."""


def _wrong_at(
    history: History, restored: Mapping[str, Restored], disks: list[str], at: float
) -> Wrong:
    wrong: Wrong = {}
    for disk in disks:
        held = restored[disk]
        for page in sorted({*held, *history.pages[disk]}):
            allowed = history.allowed(disk, page, at)
            if held.get(page, 0) not in allowed:
                wrong.setdefault(disk, {})[page] = allowed
    return wrong


def _describe(
    history: History,
    disk: str,
    held: Restored,
    wrong: dict[int, set[int]],
    span: tuple[float, float],
) -> Difference:
    page = min(wrong)
    number, expected = held.get(page, 0), max(wrong[page])
    old, new = page_of(max(number, 0), page), page_of(expected, page)
    byte = next((at for at in range(PAGE) if old[at] != new[at]), 0)
    of_span = all(
        any(
            held.get(each, 0) in history.allowed(disk, each, at)
            for at in (*span, *history.instants)
        )
        and held.get(each, 0) != GARBAGE
        for each in wrong
    )
    return Difference(
        disk,
        len(wrong) * PAGE,
        page * PAGE + byte,
        _name(history, number),
        _name(history, expected),
        later=of_span,
        pages=tuple(sorted(wrong)),
    )


def _name(history: History, number: int) -> str:
    if number == GARBAGE:
        return "what the guest never wrote there"
    if number == 0:
        return "what it held before any write (zeroes)"
    return " ".join(filter(None, ("what the guest wrote", history.periods.get(number))))
