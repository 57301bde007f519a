"""Reads a record: strictly, but for the last line of each run, which a ``kill -9`` may have cut."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blkxact.monitor.recorded import RecordBegan

from .kinds import from_json
from .writer import FORMAT

if TYPE_CHECKING:
    from .kinds import Event


PIECE: Final = 1 << 20
"""Bytes of a growing record that are read at a time; no line is longer."""
MAX_POSITION: Final = 128
"""Characters of the text of a position."""


class RecordError(Exception):
    """A record that is none; the text names the file, the line and the reason."""


class Entry(NamedTuple):
    """An event and its time, in microseconds since the beginning of the first run."""

    time: int
    event: Event


class Position(NamedTuple):
    """How far a record is read, and what is needed to read on."""

    offset: int = 0
    """In bytes."""
    line: int = 0
    """Lines read."""
    first: int = -1
    """Microseconds since 1970 at which the first run began; -1: none has."""
    start: int = 0
    """When the latest run began, and ``last`` the time of the latest entry."""
    last: int = 0

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that ``str`` made a text of; raises ``ValueError``."""
        if not text:
            return cls()
        numbers = [int(word) for word in text[:MAX_POSITION].split(".")]
        if len(numbers) != len(cls._fields) or min(numbers[:2]) < 0:
            raise ValueError(text)
        return cls(*numbers)


def read_record(path: Path) -> Iterator[Entry]:
    """Yield the entries of a record. Raises ``RecordError``."""
    reader = RecordReader(path)
    try:
        with path.open("rb") as file:
            yield from reader.read(file)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    if reader.broken is not None and reader.position.line == 0:
        raise reader.broken
    if reader.position.first < 0:
        raise RecordError(f"{path}: line 1: the record is empty")


def read_piece(path: Path, position: Position) -> tuple[list[Entry], Position]:
    """Return what has been written since ``position``, ``PIECE`` of it, and where that ends.

    The record may be growing: a line that is not complete is left for the next time. Raises
    ``RecordError``.
    """
    reader = RecordReader(path, position)
    try:
        with path.open("rb") as file:
            if position.offset > os.fstat(file.fileno()).st_size:
                raise RecordError(f"{path}: it is shorter than it was")
            file.seek(position.offset)
            data = file.read(PIECE)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    entries = list(reader.read(line + b"\n" for line in data.split(b"\n")[:-1]))
    if len(data) == PIECE and reader.position.offset == position.offset:
        raise reader.error(position.line + 1, f"it is longer than {PIECE} bytes")
    return entries, reader.position


class RecordReader:
    """Reads lines of a record from a position on."""

    def __init__(self, path: Path, position: Position = Position()) -> None:  # noqa: B008 - immutable
        self.position = position
        """After the latest entry."""
        self.broken: RecordError | None = None
        """What is wrong with the lines after the latest entry."""
        self._path = path

    def error(self, number: int, reason: str) -> RecordError:
        """Return the error of a line."""
        return RecordError(f"{self._path}: line {number}: {reason}")

    def read(self, lines: Iterable[bytes]) -> Iterator[Entry]:
        """Yield their entries. Raises ``RecordError``."""
        for offset, number, members in self._objects(lines):
            event, time = self._entry(number, members)
            _, _, first, start, last = self.position
            if isinstance(event, RecordBegan):
                first = event.began if first < 0 else first
                start = max(last, event.began - first)
            elif first < 0:
                raise self.error(number, "a record begins with RecordBegan")
            last = max(last, start + time)
            self.position = Position(offset, number, first, start, last)
            yield Entry(last, event)

    def _objects(self, lines: Iterable[bytes]) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield the objects, with where and in which line each ends."""
        offset = self.position.offset
        for number, line in enumerate(lines, self.position.line + 1):
            offset += len(line)
            try:
                members = json.loads(line, parse_float=_finite, parse_constant=str)
                complete = line.endswith(b"\n")
            except (ValueError, RecursionError):
                members, complete = None, False
            if self.broken is not None and not _begins(members):
                raise self.broken
            self.broken = None
            if not complete:
                self.broken = self.error(number, "this is not JSON")
            elif not isinstance(members, dict):
                raise self.error(number, "this is not an object")
            else:
                yield offset, number, members

    def _entry(self, number: int, members: dict[str, Any]) -> tuple[Event, int]:
        time = members.pop("time", None)
        if type(time) is not int or time < 0:
            raise self.error(number, "'time' is not a number of microseconds")
        try:
            event = from_json(members)
        except ValueError as error:
            raise self.error(number, str(error)) from error
        if isinstance(event, RecordBegan) and event.record != FORMAT:
            raise self.error(number, f"format {event.record} is not known, only {FORMAT}")
        return event, time


def _finite(text: str) -> float | str:
    """Return a number, or its text if JSON has no such number: clients may send ``1e999``."""
    number = float(text)
    return number if math.isfinite(number) else text


def _begins(members: Any) -> bool:
    """Return whether a line begins a run: the line before it may be incomplete."""
    return isinstance(members, dict) and members.get("trace") == RecordBegan.__name__
