"""Counters of a device's requests, as ``query-blockstats`` reports them.

A request is counted when it ends. Those of jobs and exports are not a device's and not counted.

QEMU's counterpart: ``block/accounting.c``; ``qapi/block-core.json`` (BlockDeviceStats).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from .timed_stats import NS_PER_SECOND, TimedAverage


class Operation(StrEnum):
    """Kinds of requests (BlockAcctType), by the names that counters have."""

    READ = "rd"
    WRITE = "wr"
    FLUSH = "flush"
    UNMAP = "unmap"
    ZONE_APPEND = "zone_append"


_WITH_BYTES: Final = (Operation.READ, Operation.WRITE, Operation.UNMAP, Operation.ZONE_APPEND)
COUNTERS: Final = (
    *(f"{op}_{what}" for op in _WITH_BYTES for what in ("bytes", "merged")),
    *(f"{op}_{what}" for op in Operation for what in ("operations", "total_time_ns")),
    *(f"{how}_{op}_operations" for op in Operation for how in ("failed", "invalid")),
)
"""The counters of BlockDeviceStats."""


def nanoseconds(seconds: float) -> int:
    """Return a time of a ``Clock`` as times are here."""
    return int(seconds * NS_PER_SECOND)


class LatencyHistogram:
    """How many requests took how long: between two boundaries each, in nanoseconds."""

    def __init__(self, boundaries: Sequence[int]) -> None:
        self._boundaries = boundaries
        self._bins = [0] * (len(boundaries) + 1)

    def count(self, latency: int) -> None:
        """Count a request."""
        self._bins[bisect_right(self._boundaries, latency)] += 1

    def describe(self) -> dict[str, list[int]]:
        """Return BlockLatencyHistogramInfo."""
        return {"boundaries": list(self._boundaries), "bins": list(self._bins)}


class TimedStats:
    """Latencies of all requests of the last ``interval`` seconds."""

    _OPERATIONS: Final = (Operation.READ, Operation.WRITE, Operation.FLUSH, Operation.ZONE_APPEND)

    def __init__(self, interval: int, now: int) -> None:
        self._interval = interval
        self._averages = {one: TimedAverage(interval, now) for one in self._OPERATIONS}

    def count(self, operation: Operation, latency: int, now: int) -> None:
        """Count a request."""
        average = self._averages.get(operation)
        if average is not None:
            average.account(latency, now)

    def describe(self, now: int) -> dict[str, Any]:
        """Return BlockDeviceTimedStats."""
        members: dict[str, Any] = {"interval_length": self._interval}
        for operation, average in self._averages.items():
            members.update(average.describe(operation, now))
            if operation is not Operation.FLUSH:
                members[f"avg_{operation}_queue_depth"] = average.queue_depth(now)
        return members


class Accounting:
    """The counters of one device. Times are in nanoseconds of the emulator's clock."""

    def __init__(self) -> None:
        self.account_failed = True
        """Whether failed requests count as accesses and their time as time."""
        self.account_invalid = True
        """Whether invalid requests count as accesses."""
        self._counters: Counter[str] = Counter()
        self._last_access: int | None = None
        self._histograms: dict[Operation, LatencyHistogram] = {}
        self._timed: list[TimedStats] = []

    def add_interval(self, seconds: int, now: int) -> None:
        """Report the latencies of the last seconds, too."""
        self._timed.append(TimedStats(seconds, now))

    def set_histogram(self, operation: Operation, boundaries: Sequence[int]) -> bool:
        """Count latencies from now on; return False if the boundaries do not ascend from above 0.

        Nothing has changed then.
        """
        ascending = all(low < high for low, high in pairwise([0, *boundaries]))
        if ascending:
            self._histograms[operation] = LatencyHistogram(boundaries)
        return ascending

    def clear_histograms(self) -> None:
        """Count no latencies any more."""
        self._histograms.clear()

    def done(self, operation: Operation, length: int, started: int, now: int) -> None:
        """Count a request that was successful; a flush has no length."""
        if length:
            self._counters[f"{operation}_bytes"] += length
        self._counters[f"{operation}_operations"] += 1
        self._count_latency(operation, now - started)
        self._access(operation, started, now)

    def failed(self, operation: Operation, started: int, now: int) -> None:
        """Count a request that failed."""
        self._counters[f"failed_{operation}_operations"] += 1
        self._count_latency(operation, now - started)
        if self.account_failed:
            self._access(operation, started, now)

    def invalid(self, operation: Operation, now: int) -> None:
        """Count a request that was refused at once."""
        self._counters[f"invalid_{operation}_operations"] += 1
        if self.account_invalid:
            self._last_access = now

    def _count_latency(self, operation: Operation, latency: int) -> None:
        histogram = self._histograms.get(operation)
        if histogram is not None:
            histogram.count(latency)

    def _access(self, operation: Operation, started: int, now: int) -> None:
        self._counters[f"{operation}_total_time_ns"] += now - started
        self._last_access = now
        for timed in self._timed:
            timed.count(operation, now - started, now)

    def describe(self, now: int) -> dict[str, Any]:
        """Return these members of BlockDeviceStats; ``idle_time_ns`` only after an access."""
        members: dict[str, Any] = {
            **{name: self._counters[name] for name in COUNTERS},
            "account_failed": self.account_failed,
            "account_invalid": self.account_invalid,
            "timed_stats": [timed.describe(now) for timed in self._timed],
        }
        for operation, histogram in self._histograms.items():
            members[f"{operation}_latency_histogram"] = histogram.describe()
        if self._last_access is not None:
            members["idle_time_ns"] = now - self._last_access
        return members
