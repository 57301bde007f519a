"""Faults: listeners that let chosen passings of points fail, and the record they are chosen from.

``Record`` notes every passing by its address and count; ``Fault`` fails one, in the next run too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from blkxact.errors import QmpError, os_error
from blkxact.runtime.points import POINTS, Points
from blkxact.storage.errors import TornWriteError


@dataclass(slots=True)
class Fault:
    """A failure to come.

    ``point`` is a name in ``POINTS`` or a pattern of such (``storage.*``); ``failure`` an errno, or
    the text of a ``QmpError``. Passings with the facts ``where`` that touch bytes ``[start, end)``
    match; the first ``skip`` of them pass, the next ``times`` (``None`` is all) fail. A ``partial``
    write to a file leaves a part of its bytes behind.
    """

    point: str
    failure: int | str
    where: Mapping[str, Any] = field(default_factory=dict)
    start: int = 0
    end: int | None = None
    skip: int = 0
    times: int | None = 1
    partial: bool = False

    def __call__(self, name: str, facts: Mapping[str, Any]) -> None:
        """Fail this passing if it is one to fail."""
        del name
        if self._strikes(facts):
            if isinstance(self.failure, str):
                raise QmpError(self.failure)
            error = os_error(self.failure)
            raise TornWriteError(*error.args) if self.partial else error

    def _strikes(self, facts: Mapping[str, Any]) -> bool:
        if any(facts.get(fact) != value for fact, value in self.where.items()):
            return False
        offset, length = facts.get("offset", 0), max(facts.get("length", 1), 1)
        if offset + length <= self.start or (self.end is not None and offset >= self.end):
            return False
        if self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """The faults that are ordered at ``points``; the first in order strikes."""

    def __init__(self, points: Points) -> None:
        self._points = points
        self._ordered: list[tuple[Fault, list[Callable[[], None]]]] = []

    def add(self, fault: Fault) -> None:
        """Order a fault. Raises ``KeyError`` if ``fault.point`` matches no point."""
        names = [name for name in POINTS if fnmatchcase(name, fault.point)]
        if not names:
            raise KeyError(fault.point)
        self._ordered.append((fault, [self._points.listen(name, fault) for name in names]))

    def clear(self) -> list[Fault]:
        """Cancel all faults; return them."""
        ordered, self._ordered = self._ordered, []
        for _, stops in ordered:
            for stop in stops:
                stop()
        return [fault for fault, _ in ordered]


class Passing(NamedTuple):
    """One passing of a point: the ``nth``, from 1, with that address."""

    point: str
    address: str
    nth: int
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.address} #{self.nth}"


class Record:
    """Notes every passing of points, by default of all, until ``stop``."""

    def __init__(self, points: Points, pattern: str = "*") -> None:
        self.passings: list[Passing] = []
        self._counts: Counter[str] = Counter()
        names = [name for name in POINTS if fnmatchcase(name, pattern)]
        self._stops = [points.listen(name, self._note) for name in names]

    def _note(self, name: str, facts: Mapping[str, Any]) -> None:
        address = POINTS[name].address(facts)
        self._counts[address] += 1
        self.passings.append(Passing(name, address, self._counts[address], dict(facts)))

    def stop(self) -> None:
        """Note nothing more."""
        for stop in self._stops:
            stop()


def fault_at(passing: Passing, failure: int | str) -> Fault:
    """Return the fault that fails this passing in the next run."""
    place = POINTS[passing.point].place(passing.facts)
    return Fault(passing.point, failure, place, skip=passing.nth - 1)
