"""What can happen where: the faults of a case, and those that a record gives rise to.

A fault is written ``CALL/POINT[/PLACE...]/NTH/ACTION``. As ``2/monitor.reply/transaction/1/cut``
the reply to the first ``transaction`` of the second call is lost. Nothing in it is a time, a number
that a tool counts up, or a path, so it means the same in the next run.

``call.end`` is no point of the emulator: it is the moment at which a call has ended.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from blkxact.runtime.points import POINTS

CALL_END: Final = "call.end"

ERRNOS: Final = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}
FROM_THEN_ON: Final = "+"
"""After the name of an error: all that follow fail, too; for ENOSPC all writes of new data."""

WHAT: Final = {
    "cut": "the connection is cut",
    "refuse": "it is refused",
    "EIO": "that fails with EIO",
    "EIO+": "that and all that follows like it fails with EIO",
    "ENOSPC": "that fails with ENOSPC",
    "ENOSPC+": "the file system of the backups is full from here on",
    "kill": "the emulator is killed (kill -9) and started again",
    "quit": "the emulator ends in order and is started again",
    "crash": "the emulator is restarted in order, and after some writes killed and started again",
    "power": "the power fails: what was not flushed is lost or torn; all is started again",
    "kill-client": "the tool is killed (kill -9)",
    "write": "the guest writes",
    "late": "is sent late, when the jobs are over",
    "lock": "another program holds the lock of the image until the call ends",
    "stall": "the NBD connection stalls: the request is not answered",
}
"""What each action does."""

SIMPLICITY: Final = tuple(WHAT)
"""The order in which a person would like to hear of faults of one cause."""

RESTARTS: Final = frozenset({"kill", "quit", "crash", "power"})
"""Actions after which the emulator is another process."""

_IO: Final = ("EIO", "EIO+")
_CHANGE: Final = ("EIO", "ENOSPC", "EIO+", "ENOSPC+", "kill")
ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    CALL_END: ("kill", "quit", "crash", "power"),
    "monitor.connected": ("cut",),
    "monitor.received": ("write", "cut", "refuse", "kill", "quit", "kill-client"),
    "monitor.reply": ("write", "cut", "kill", "quit", "kill-client", "late"),
    "monitor.event": ("write", "cut", "kill", "quit", "kill-client", "late"),
    "transaction.prepare": ("refuse", "kill"),
    "transaction.settled": ("kill",),
    "job.start": ("EIO", "kill", "write"),
    "job.step": ("EIO", "write", "kill", "quit", "kill-client"),
    "job.before-flush": ("EIO", "ENOSPC", "kill", "power", "write"),
    "job.prepare": ("EIO", "kill", "write"),
    "job.conclude": ("kill", "power", "kill-client", "write"),
    "bitmap.freeze": ("refuse", "kill"),
    "bitmap.abdicated": ("kill",),
    "bitmap.reclaimed": ("kill",),
    "bitmap.store": ("EIO", "ENOSPC", "kill", "power"),
    "export.add": ("refuse", "kill"),
    "export.deleted": ("kill",),
    "nbd.connected": ("cut",),
    "nbd.request": ("EIO", "cut", "stall", "kill", "kill-client", "write"),
    "nbd.reply": ("cut",),
    "storage.open": ("EIO", "lock"),
    "storage.create": ("ENOSPC",),
    "storage.pread": _IO,
    "storage.map": _IO,
    "storage.flush": ("EIO", "ENOSPC", "kill", "power"),
    "storage.pwrite": (*_CHANGE, "power"),
    "storage.write_zeroes": _CHANGE,
    "storage.truncate": _CHANGE,
}
"""Point to what can happen there in reality, of ``WHAT``."""

_NUMBER: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+")
"""What a tool counts up or draws by chance: UUIDs and numbers."""
_UNSAFE: Final = str.maketrans(" /+,:*$'\"&;()<>|", "_" * 16)
"""What a shell or a case's text would take for something else."""
_SYNTAX: Final = re.compile(r"(\d+)/([a-z]+\.[a-z_-]+(?:/[^/+]*)*)/(\d+)/([A-Za-z-]+\+?)")


class FaultError(Exception):
    """A text names no fault."""


class Passing(NamedTuple):
    """A passing of a point in one call: the ``nth`` with that address, from 1."""

    call: int
    address: str
    nth: int

    @property
    def point(self) -> str:
        """The name of the point."""
        return self.address.partition("/")[0]

    @property
    def place(self) -> tuple[str, ...]:
        """The facts that say which of several things passed."""
        return tuple(self.address.split("/")[1:])

    def __str__(self) -> str:
        return f"{self.call}/{self.address}/{self.nth}"


class Fault(NamedTuple):
    """Something that happens at a passing."""

    passing: Passing
    action: str

    def __str__(self) -> str:
        return f"{self.passing}/{self.action}"


def parse_fault(text: str) -> Fault:
    """Return the fault that a text names; raises ``FaultError``."""
    found = _SYNTAX.fullmatch(text)
    if found is None:
        raise FaultError(f"'{text}' is no fault: CALL/POINT[/PLACE...]/NTH/ACTION")
    fault = Fault(Passing(int(found[1]), found[2], int(found[3])), found[4])
    if fault.action not in ACTIONS.get(fault.passing.point, ()):
        raise FaultError(f"'{text}': there is no {fault.action} at {fault.passing.point}")
    return fault


@lru_cache(maxsize=1024)
def _same_in_each_run(text: str) -> str:
    return _NUMBER.sub("@", text).translate(_UNSAFE)


class Places:
    """Names what passes a point in words that are the same in each run."""

    def __init__(self, directory: str, disks: Sequence[str]) -> None:
        self._directory = directory
        self._disks = frozenset(disks)
        self._files: dict[str, str] = {}
        self._renamed: dict[str, str] = {}

    def rename(self, node: str, disk: str) -> None:
        """Give a node the name of its disk."""
        self._renamed[node] = disk

    def begin_call(self) -> None:
        """Begin to number the files of the tool."""
        self._files.clear()

    def address(self, point: str, facts: Mapping[str, Any]) -> str:
        """Return the point and the place of a passing."""
        place = POINTS[point].place(facts)
        return "/".join([point, *(self._name(fact, value) for fact, value in place.items())])

    def _name(self, fact: str, value: Any) -> str:
        text = self._renamed.get(str(value), str(value))
        if fact == "path":
            return self._file(text)
        if text in self._disks or text.partition(".")[0] in self._disks:
            return text
        return _same_in_each_run(text)

    def _file(self, path: str) -> str:
        name = path.rpartition("/")[2].partition(".")[0]
        if name in self._disks and path.rpartition("/")[0] == self._directory:
            return name
        return self._files.setdefault(path, f"file-{len(self._files) + 1}")
