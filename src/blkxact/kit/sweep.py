"""``@pytest.mark.every_fault``: a test is run once more for each point of its own record.

The first run has no faults and notes what passes. Each further run has one fault: the passing with
the same address and count fails as its point allows. What the fixture itself does on behalf of the
test (the guest, looking at disks) is neither noted nor counted.
"""

from __future__ import annotations

import errno as errnos
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.runtime.points import POINTS

from .faults import striker

own: ContextVar[bool] = ContextVar("own", default=False)
"""Whether the fixture does something for the test, and not the tool."""
DEFAULT_PATTERNS: Final = ("monitor.*", "command.execute", "transaction.*", "job.*", "request.*")
MAX_PASSINGS: Final = 100_000
"""Passings of a record that are noted."""
_UNCERTAIN: Final = re.compile(r"/\S*")
"""Paths: the directory of a test is another in each run."""


class Sweep:
    """The record of one run of a test, or the fault of one: ``target`` is an address and count."""

    def __init__(
        self,
        target: str | None = None,
        patterns: tuple[str, ...] = DEFAULT_PATTERNS,
        errno: int = errnos.EIO,
    ) -> None:
        self.passings: list[str] = []
        self.struck = False
        self._target = target
        self._patterns = patterns
        self._errno = errno
        self._counts: Counter[str] = Counter()
        self._stops: list[Callable[[], None]] = []

    def begin(self, layer: BlockLayer) -> None:
        """Listen to an emulator that is about to start."""
        names = [
            name
            for name, point in POINTS.items()
            if point.fails and any(fnmatchcase(name, pattern) for pattern in self._patterns)
        ]
        self._stops += [layer.points.listen(name, self._pass) for name in names]

    def end(self) -> None:
        """Stop listening: what follows is the end of the test."""
        while self._stops:
            self._stops.pop()()

    def _pass(self, name: str, facts: Mapping[str, Any]) -> None:
        if own.get():
            return
        address = _UNCERTAIN.sub("/...", POINTS[name].address(facts))
        self._counts[address] += 1
        passing = f"{address} #{self._counts[address]}"
        if self._target is None:
            if len(self.passings) < MAX_PASSINGS:
                self.passings.append(passing)
        elif passing == self._target:
            self.struck = True
            striker(POINTS[name], self._errno)()
