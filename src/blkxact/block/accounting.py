"""Counters of a device's requests, as ``query-blockstats`` reports them.

A request is counted when it ends. Those of jobs and exports are not a device's and not counted.

QEMU's counterpart: ``block/accounting.c``; ``qapi/block-core.json`` (BlockDeviceStats).
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final

NS_PER_SECOND: Final = 10**9


class Operation(StrEnum):
    """Kinds of requests (BlockAcctType), by the names that counters have."""

    READ = "rd"
    WRITE = "wr"
    FLUSH = "flush"
    UNMAP = "unmap"


COUNTERS: Final = (
    *(f"{op}_{what}" for op in ("rd", "wr", "unmap") for what in ("bytes", "merged")),
    *(f"{op}_{what}" for op in Operation for what in ("operations", "total_time_ns")),
    *(f"{how}_{op}_operations" for op in Operation for how in ("failed", "invalid")),
)
"""The counters of BlockDeviceStats."""


def nanoseconds(seconds: float) -> int:
    """Return a time of a ``Clock`` as times are here."""
    return int(seconds * NS_PER_SECOND)


class Accounting:
    """The counters of one device. Times are in nanoseconds of the emulator's clock."""

    def __init__(self) -> None:
        self.account_failed = True
        """Whether failed requests count as accesses and their time as time."""
        self.account_invalid = True
        """Whether invalid requests count as accesses."""
        self._counters: Counter[str] = Counter()
        self._last_access: int | None = None

    def done(self, operation: Operation, length: int, started: int, now: int) -> None:
        """Count a request that was successful; a flush has no length."""
        if length:
            self._counters[f"{operation}_bytes"] += length
        self._counters[f"{operation}_operations"] += 1
        self._access(operation, started, now)

    def failed(self, operation: Operation, started: int, now: int) -> None:
        """Count a request that failed."""
        self._counters[f"failed_{operation}_operations"] += 1
        if self.account_failed:
            self._access(operation, started, now)

    def invalid(self, operation: Operation, now: int) -> None:
        """Count a request that was refused at once."""
        self._counters[f"invalid_{operation}_operations"] += 1
        if self.account_invalid:
            self._last_access = now

    def _access(self, operation: Operation, started: int, now: int) -> None:
        self._counters[f"{operation}_total_time_ns"] += now - started
        self._last_access = now

    def describe(self, now: int) -> dict[str, int | bool]:
        """Return these members of BlockDeviceStats; ``idle_time_ns`` only after an access."""
        members: dict[str, int | bool] = {
            **{name: self._counters[name] for name in COUNTERS},
            "account_failed": self.account_failed,
            "account_invalid": self.account_invalid,
        }
        if self._last_access is not None:
            members["idle_time_ns"] = now - self._last_access
        return members
