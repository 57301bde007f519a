"""The directory of a case, and how the tool is called in it. Nothing is written elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .client import GROUP_FILE, Call
from .relay import VARIABLE
from .scenario import Scenario

_RESTORED: Final = "restored"
_TOOL_LOG: Final = "tool.log"
_START_LOG: Final = "start.log"
_LATER: Final = frozenset({_RESTORED, _TOOL_LOG, GROUP_FILE})
"""Files that come after the emulator's start and are not the tool's."""


class Workplace:
    """One directory, with the images, sockets, backups and ``TMPDIR`` of one case."""

    def __init__(self, scenario: Scenario, directory: Path) -> None:
        self._scenario = scenario
        self.directory = directory
        self.store = directory / "store"
        """The tool's directory for backups."""
        self.restored = directory / _RESTORED
        """The file to restore to."""
        self.shared = directory.parent / "shared"
        """A directory that all cases of a sweep share."""
        self.starts = directory / "starts"
        """Where whoever starts the emulator connects to."""
        self._usual: frozenset[str] = frozenset()
        for each in (self.store, directory / "tmp"):
            each.mkdir()

    def note_files(self) -> None:
        """Note which files are there before the tool is called."""
        self._usual = frozenset(path.name for path in self.directory.iterdir())

    def count_files(self) -> int:
        """Return how many files the tool has left in the emulator's directory."""
        usual = self._usual | _LATER
        left = [path for path in self.directory.iterdir() if path.name not in usual]
        return sum(sum(each.is_file() for each in path.rglob("*")) or 1 for path in left)

    def start(self, relay: Path) -> Call:
        """Call what starts ``relay`` as the emulator; raises ``client.StartError``."""
        more = {"emulator": str(relay), "shared": str(self.shared)}
        return self.call(self._scenario.emulator.start, more, _START_LOG)

    def call(self, template: str, more: Mapping[str, str], log: str = _TOOL_LOG) -> Call:
        """Call the tool; raises ``client.StartError``."""
        values = {
            "qmp": str(self.directory / "qmp"),
            "store": str(self.store),
            "disks": ",".join(self._scenario.names),
            "dir": str(self.directory),
            "here": self._scenario.here,
            "tool": self._scenario.tool,
            "python": sys.executable,
            **more,
        }
        environment = {
            **os.environ,
            "TMPDIR": str(self.directory / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
        }
        if self._scenario.emulator.start:
            environment[VARIABLE] = str(self.starts)
        return Call(
            self._scenario.words(template, values),
            self.directory,
            self.directory / log,
            environment,
            fork=bool(self._scenario.client.preload),
        )
