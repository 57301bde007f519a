"""Reads a record: strictly, but for the last line of each run, which a ``kill -9`` may have cut."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blkxact.monitor.recorded import RecordBegan

from .kinds import from_json
from .writer import FORMAT

if TYPE_CHECKING:
    from .kinds import Event


class RecordError(Exception):
    """A record that is none; the text names the file, the line and the reason."""


class Entry(NamedTuple):
    """An event and its time, in microseconds since the beginning of the first run."""

    time: int
    event: Event


def read_record(path: Path) -> Iterator[Entry]:
    """Yield the entries of a record. Raises ``RecordError``."""
    first: int | None = None
    start = last = 0
    try:
        with path.open("rb") as file:
            for number, members in _lines(path, file):
                event, time = _entry(path, number, members)
                if isinstance(event, RecordBegan):
                    first = event.began if first is None else first
                    start = max(last, event.began - first)
                elif first is None:
                    raise _error(path, number, "a record begins with RecordBegan")
                last = max(last, start + time)
                yield Entry(last, event)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    if first is None:
        raise RecordError(f"{path}: line 1: the record is empty")


def _lines(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects, with the numbers of their lines."""
    broken: RecordError | None = None
    for number, line in enumerate(file, 1):
        try:
            members = json.loads(line, parse_float=_finite, parse_constant=str)
            complete = line.endswith(b"\n")
        except (ValueError, RecursionError):
            members, complete = None, False
        if broken is not None and not _begins(members):
            raise broken
        broken = None
        if not complete:
            broken = _error(path, number, "this is not JSON")
        elif not isinstance(members, dict):
            raise _error(path, number, "this is not an object")
        else:
            yield number, members
    if broken is not None and number == 1:
        raise broken


def _finite(text: str) -> float | str:
    """Return a number, or its text if JSON has no such number: clients may send ``1e999``."""
    number = float(text)
    return number if math.isfinite(number) else text


def _begins(members: Any) -> bool:
    """Return whether a line begins a run: the line before it may be incomplete."""
    return isinstance(members, dict) and members.get("trace") == RecordBegan.__name__


def _entry(path: Path, number: int, members: dict[str, Any]) -> tuple[Event, int]:
    time = members.pop("time", None)
    if type(time) is not int or time < 0:
        raise _error(path, number, "'time' is not a number of microseconds")
    try:
        event = from_json(members)
    except ValueError as error:
        raise _error(path, number, str(error)) from error
    if isinstance(event, RecordBegan) and event.record != FORMAT:
        raise _error(path, number, f"format {event.record} is not known, only {FORMAT}")
    return event, time


def _error(path: Path, number: int, reason: str) -> RecordError:
    return RecordError(f"{path}: line {number}: {reason}")
