"""What of a host's file is looked at in a thread, without its bytes coming to the loop.

Where faults are injected every read must be seen, so the bytes take the common way then.
"""

from __future__ import annotations

from collections.abc import Sequence

from blkxact.runtime.points import Points

from .api import StorageFile
from .scan import Area, Pair, Run, scan_differences, scan_zeroes
from .workers import Workers


class ScannedFile(StorageFile):
    """The part of ``OsFile`` that scans."""

    fd: int
    _points: Points
    _workers: Workers

    async def zero_runs(self, areas: Sequence[Area], unit: int) -> list[list[Run]]:
        """Return which blocks of ``unit`` bytes are zero, for each area; raises ``OSError``."""
        if self._points.listening:
            return await super().zero_runs(areas, unit)
        return await self._workers.in_thread(scan_zeroes, self.fd, areas, unit)

    async def differences(
        self, other: StorageFile, pairs: Sequence[Pair], unit: int
    ) -> list[list[tuple[int, int]]]:
        """Return which blocks of ``unit`` bytes differ, for each pair; raises ``OSError``."""
        if self._points.listening or not isinstance(other, ScannedFile):
            return await super().differences(other, pairs, unit)
        return await self._workers.in_thread(scan_differences, self.fd, other.fd, pairs, unit)
