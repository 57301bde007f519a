"""What of a host's file is looked at in a thread, without its bytes coming to the loop.

Where faults are injected every read must be seen, so the bytes take the common way then.
"""

from __future__ import annotations

from collections.abc import Sequence

from blkxact.runtime.points import Points

from .api import Area, Pair, StorageFile
from .scan import Run, scan_differences, scan_zeroes
from .workers import Workers


class ScannedFile(StorageFile):
    """The part of ``OsFile`` that scans."""

    fd: int
    _points: Points
    _workers: Workers

    async def zero_runs(self, areas: Sequence[Area], unit: int) -> list[list[Run]]:
        """Return which blocks of ``unit`` bytes are zero, for each area; raises ``OSError``."""
        fds = self._fds([area[0] for area in areas])
        if fds is None:
            return await super().zero_runs(areas, unit)
        places = [(fd, *area[1:]) for fd, area in zip(fds, areas, strict=True)]
        return await self._workers.in_thread(scan_zeroes, places, unit)

    async def differences(self, pairs: Sequence[Pair], unit: int) -> list[list[Run]]:
        """Return which blocks of ``unit`` bytes differ, for each pair; raises ``OSError``."""
        mine, yours = self._fds([one[0] for one in pairs]), self._fds([one[2] for one in pairs])
        if mine is None or yours is None:
            return await super().differences(pairs, unit)
        places = [
            (fd, one[1], other, one[3], one[4])
            for fd, other, one in zip(mine, yours, pairs, strict=True)
        ]
        return await self._workers.in_thread(scan_differences, places, unit)

    def _fds(self, files: Sequence[StorageFile]) -> list[int] | None:
        """Return the descriptors, or None if not all reads can be done in a thread."""
        if self._points.listening:
            return None
        fds = [file.fd for file in files if isinstance(file, ScannedFile)]
        return fds if len(fds) == len(files) else None
