"""What a call does to bitmaps, as far as it tells which mistake a tool makes.

The emulator reports each change at once, as it may be killed before the call ends. Whoever runs the
case keeps them in short, with the call in which a bitmap that is removed began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from blkxact.block_layer import BlockLayer

_COMMAND: Final = "block-dirty-bitmap-"
ADD: Final = "add"
CLEAR: Final = "clear"
CLEAR_IN_TRANSACTION: Final = "clear in a transaction"
ABDICATED: Final = "abdicated"
REMOVE_INCONSISTENT: Final = "remove of an inconsistent one"


class BitmapWork(NamedTuple):
    """One change: a verb of ``block-dirty-bitmap-*``, or that a job has made it abdicate."""

    verb: str
    node: str
    name: str
    alone: bool = False
    """It was a command of its own, and no action of a transaction."""
    inconsistent: bool = False
    """The bitmap was."""


class BitmapWatch:
    """Reports what the clients of an emulator, and its jobs, do to bitmaps."""

    def __init__(self, layer: BlockLayer, report: Callable[[BitmapWork], None]) -> None:
        self._layer = layer
        self._report = report
        self._command = ""
        for point, listener in (
            ("monitor.received", self._received),
            ("transaction.commit", self._committed),
            ("bitmap.abdicated", self._abdicated),
        ):
            layer.points.listen(point, listener)

    def _received(self, _point: str, facts: Mapping[str, Any]) -> None:
        self._command = facts["command"]

    def _committed(self, _point: str, facts: Mapping[str, Any]) -> None:
        kind, _, place = facts["action"].partition(" ")
        if not kind.startswith(_COMMAND):
            return
        node, _, name = place.partition(" ")
        verb = kind.removeprefix(_COMMAND)
        bad = verb == "remove" and self._layer.find_bitmap(node, name)[1].inconsistent
        alone = self._command.startswith(_COMMAND)
        self._report(BitmapWork(verb, node, name, alone=alone, inconsistent=bad))

    def _abdicated(self, _point: str, facts: Mapping[str, Any]) -> None:
        self._report(BitmapWork(ABDICATED, facts["node"], facts["bitmap"]))


class BitmapStory:
    """What the calls of a case do to bitmaps, in short: each thing once, in order."""

    def __init__(self) -> None:
        self._began: dict[tuple[str, str], int] = {}
        """The call since which a bitmap has recorded."""
        self._lines: dict[str, None] = {}
        self._call = 1

    def note(self, work: BitmapWork) -> None:
        """Note what happened in this call."""
        self._lines[self._line(work)] = None
        if work.verb in (ADD, CLEAR, ABDICATED):
            self._began[work.node, work.name] = self._call

    def take(self) -> tuple[str, ...]:
        """Return the lines of this call, which has ended."""
        lines, self._lines = tuple(self._lines), {}
        self._call += 1
        return lines

    def _line(self, work: BitmapWork) -> str:
        if work.verb == "remove":
            began = self._began.pop((work.node, work.name), None)
            if work.inconsistent:
                return REMOVE_INCONSISTENT
            return "remove" if began is None else removal_of(began)
        is_command = work.alone or work.verb == ABDICATED
        return work.verb if is_command else f"{work.verb} in a transaction"


def removal_of(call: int) -> str:
    """Return the line for a bitmap that is removed and was consistent, by the call it began in."""
    return f"remove of one that began in call {call}"
