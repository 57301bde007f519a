"""The record of a case, and its page: what the emulator did, the faults, and what restores wrongly.

The emulators of a case continue one record. Faults and comparisons are noted by whoever runs the
case, with the same clock.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from blkxact.monitor.recorded import FaultStruck, RestoreDiffers
from blkxact.record.reader import Entry, RecordError, read_record
from blkxact.report.page import page_of

from .faults import Fault
from .judgement import Difference
from .results import Result

FILE: Final = "record.jsonl"
"""In the directory of the case."""


class CaseRecord:
    """What happens in one case."""

    def __init__(self) -> None:
        self._path = Path()
        self._notes: list[tuple[int, FaultStruck | RestoreDiffers]] = []
        self._entries: list[Entry] = []

    def begin(self, directory: Path) -> str:
        """Return the path of the file to which the emulators write."""
        self._path = directory / FILE
        return str(self._path)

    def struck(self, fault: Fault, at_us: int) -> None:
        """Note that a fault struck, at microseconds since 1970."""
        self._notes.append((at_us, FaultStruck(str(fault))))

    def differs(self, difference: Difference, size: int, at_us: int) -> None:
        """Note that a restored disk of ``size`` bytes was found to be wrong."""
        text, ranges = str(difference), difference.ranges()
        self._notes.append((at_us, RestoreDiffers(difference.disk, text, size, ranges)))

    def end(self) -> None:
        """Read the file, which is removed next."""
        try:
            entries = list(read_record(self._path))
        except RecordError:
            return  # no emulator was started
        began = getattr(entries[0].event, "began", 0)
        entries += [Entry(max(0, at - began), event) for at, event in self._notes]
        self._entries = sorted(entries, key=lambda entry: entry.time)

    def page(self, result: Result) -> str:
        """Return the page."""
        return page_of(self._entries, f"{result.case}: {result.verdict}")
