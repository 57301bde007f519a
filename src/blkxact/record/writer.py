"""The file of a record.

Invariants:

* A line is written with one system call, so what was recorded survives a ``kill -9``, and only the
  last line can be incomplete.
* A record never grows beyond its limit; the line that says so is its last.
* A record that cannot be written (full disk) ends, with a warning; it stops no job.

A record that exists is continued: an emulator that is started again with the same command line
adds a run to it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blkxact.monitor.recorded import RecordBegan, RecordFull
from blkxact.qmp.json_text import encode_text

from .kinds import as_json

if TYPE_CHECKING:
    from .kinds import Event

FORMAT: Final = 1
"""The version of the format; in the first line of each run."""
RESERVE: Final = 256
"""Bytes that are kept for the last line."""
MAX_VALUE: Final = 16 << 10
"""Characters of the arguments or the result of a command; longer ones are cut."""

_log = logging.getLogger(__name__)


class RecordWriter:
    """A record that is being written. Raises ``OSError`` if it cannot be opened."""

    def __init__(self, path: str, limit: int) -> None:
        self.path = str(Path(path).absolute())
        """Where it is; absolute."""
        self._limit = limit
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._size = os.fstat(self._file).st_size
        self._last = 0
        self._full = self._size > limit - RESERVE
        if self._full:
            _log.warning("record '%s': its limit of %d bytes is reached already", path, limit)
        elif self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._append(b"\n")  # a run before was killed in the middle of a line

    def begin(self, realtime_us: int, program: str) -> None:
        """Begin a run."""
        self._last = 0
        self.write(RecordBegan(FORMAT, realtime_us, program), 0)

    def write(self, event: Event, time_us: int) -> None:
        """Add an event; ``time_us`` is since the beginning, and times do not run backwards."""
        if self._full:
            return
        self._last = max(self._last, time_us)
        line = self._encode(event)
        if self._size + len(line) > self._limit - RESERVE:
            self._full = True
            line = self._encode(RecordFull(self._limit))
        self._append(line)

    def _encode(self, event: Event) -> bytes:
        members = {"time": self._last, **as_json(event)}
        return encode_text(members).encode("ascii") + b"\n"

    def _append(self, line: bytes) -> None:
        try:
            self._size += os.write(self._file, line)
        except OSError as error:
            self._full = True
            _log.warning("record '%s' ends here: %s", self.path, error.strerror)

    def close(self) -> None:
        """Close the file; what is written later is dropped."""
        self._full = True
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def shortened(value: Any) -> Any:
    """Return a JSON value, or the beginning of its text if that is long."""
    text = encode_text(value)
    if len(text) <= MAX_VALUE:
        return value
    return {"characters": len(text), "begins": text[:MAX_VALUE]}
