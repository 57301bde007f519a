"""The differences on purpose, read from the page that describes them to people.

A line of the page may carry ``<!-- diff: WHERE | OURS | QEMU'S -->``: three patterns (``fnmatch``)
that are compared with where a difference is (``Difference.where``) and with the two values as JSON.
A missing pattern matches everything.
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
_NOTE = re.compile(r"<!-- diff: (.*?) -->", re.DOTALL)


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

    def explains(self, difference: Difference) -> bool:
        """Return whether this is that difference."""
        return (
            fnmatchcase(difference.where, self.where)
            and fnmatchcase(encode_text(difference.ours), self.ours)
            and fnmatchcase(encode_text(difference.theirs), self.theirs)
        )


def parse_known(text: str) -> list[Known]:
    """Return the notes of a page."""
    return [Known(*map(str.strip, note.split("|"))) for note in _NOTE.findall(text)]


def known_differences() -> list[Known]:
    """Return the notes of the page that comes with blkxact."""
    packaged = files("blkxact.diff") / PAGE
    if packaged.is_file():
        return parse_known(packaged.read_text())
    source = Path(__file__).parents[3] / "docs" / PAGE  # a checkout
    return parse_known(source.read_text())
