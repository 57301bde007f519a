"""The differences on purpose, read from the page that describes them to people.

A line of the page may carry ``<!-- diff: WHERE | OURS | QEMU'S | LINE -->``: patterns (``fnmatch``)
that are compared with where a difference is (``Difference.where``), with the two values as JSON,
and with the line of the script after which it was seen (``Difference.line``). A missing pattern
matches everything. As QEMU'S, ``more`` and ``less`` match a number that is larger or smaller than
ours, and ``at most N more`` one that is so much larger. With ``diff 10.0:`` it is a difference from
that release alone. With ``diff-end:`` the run ends with the difference, because it lasts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from blkxact.qmp.json_text import encode_text

PAGE = "differences-from-qemu.md"
ANSWERS = "answers"
"""The value of a side that is there, where the other has fallen silent."""
ENDED = "ended with status "
"""What the value of a side begins with that has ended; a negative status is that of a signal."""
_NOTE = re.compile(r"<!-- diff(-end)?(?: ([\d.]+))?: (.*?) -->", re.DOTALL)
_RELATION = re.compile(r"less|(?:at most (\d+) )?more")


@dataclass(frozen=True, slots=True)
class Difference:
    """One place in which two runs differ."""

    step: int
    """Index of the line after which it was seen; -1: before all; the number of lines: at the end.
    """
    where: str
    """``COMMAND PATH``, ``COMMAND events``, ``QUERY PATH``, ``image NAME PATH``."""
    ours: Any
    theirs: Any
    line: str = ""
    """That line; of an ``image``, all lines of the script. Each name of a node or device in it is
    followed by the driver: ``"a(qcow2)"``. At its end are the jobs that it found:
    `` beside j1(mirror, ready)``."""
    release: str = ""
    """Of the QEMU, such as ``7.2``."""

    @property
    def is_crash(self) -> bool:
        """Whether QEMU was ended by a signal, such as that of an assertion, and blkxact answers."""
        return self.ours == ANSWERS and str(self.theirs).startswith(f"{ENDED}-")

    @property
    def kind(self) -> str:
        """What stays the same when a script is shortened."""
        return re.sub(r"\d+", "N", self.where)


@dataclass(frozen=True, slots=True)
class Known:
    """A difference on purpose."""

    where: str
    ours: str = "*"
    theirs: str = "*"
    line: str = "*"
    ends: bool = False
    """The two programs are not in the same state afterwards."""
    release: str = "*"

    def explains(self, difference: Difference) -> bool:
        """Return whether this is that difference."""
        return (
            fnmatchcase(difference.release, self.release)
            and fnmatchcase(difference.where, self.where)
            and fnmatchcase(encode_text(difference.ours), self.ours)
            and self._is_theirs(difference)
            and fnmatchcase(difference.line, self.line)
        )

    def _is_theirs(self, difference: Difference) -> bool:
        ours, theirs = difference.ours, difference.theirs
        relation = _RELATION.fullmatch(self.theirs)
        if relation is None:
            return fnmatchcase(encode_text(theirs), self.theirs)
        if not (isinstance(ours, int) and isinstance(theirs, int)):
            return False
        if self.theirs == "less":
            return theirs < ours
        return ours < theirs <= ours + int(relation[1] or theirs)


def parse_known(text: str) -> list[Known]:
    """Return the notes of a page."""
    return [
        _known(note, ends=bool(end), release=release) for end, release, note in _NOTE.findall(text)
    ]


def _known(note: str, *, ends: bool, release: str) -> Known:
    given = [pattern.strip() for pattern in note.split("|")]
    where, ours, theirs, line = (*given, "*", "*", "*")[:4]
    return Known(where, ours, theirs, line, ends, release or "*")


def known_differences() -> list[Known]:
    """Return the notes of the page that comes with blkxact."""
    packaged = files("blkxact.diff") / PAGE
    if packaged.is_file():
        return parse_known(packaged.read_text())
    source = Path(__file__).parents[3] / "docs" / PAGE  # a checkout
    return parse_known(source.read_text())
