"""The limits of a throttle group: six of them, each with a burst, and the size of one request.

Invariants:

* A limit is on bytes (``bps``) or requests (``iops``) a second, of reads, of writes or of both
  together; the total and the single ones exclude each other.
* ``maximum`` is the rate of a burst, ``length`` the seconds that it may last at that rate.
* Numbers are unsigned, as in QEMU: a negative one is a very large one, and refused as such.

QEMU's counterpart: ThrottleConfig of ``util/throttle.c``; ThrottleLimits of
``qapi/block-core.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from blkxact.errors import QmpError

KINDS: Final = ("bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write")
VALUE_MAX: Final = 10**15
"""Most units a second."""
LENGTH_MAX: Final = 2**32 - 1
"""Longest burst, in seconds."""
_IOPS_SIZE: Final = "iops-size"

MEMBERS: Final = (
    *(kind + part for kind in KINDS for part in ("", "-max", "-max-length")),
    _IOPS_SIZE,
)
"""The members of ThrottleLimits."""


class Limit(NamedTuple):
    """One limit, in units a second; ``average`` 0: there is none."""

    average: int = 0
    maximum: int = 0
    length: int = 1
    """Seconds."""


_NO_LIMITS: Final[Mapping[str, Limit]] = MappingProxyType(dict.fromkeys(KINDS, Limit()))


class ThrottleLimits(NamedTuple):
    """All limits of one group, by kind."""

    limits: Mapping[str, Limit] = _NO_LIMITS
    iops_size: int = 0
    """A request counts as so many as this many bytes go into it; 0: always as one."""

    def changed(self, members: Mapping[str, int]) -> ThrottleLimits:
        """Return these limits with some ``MEMBERS`` changed, unchecked."""
        limits = {
            kind: Limit(
                _unsigned(members.get(kind, old.average)),
                _unsigned(members.get(f"{kind}-max", old.maximum)),
                _unsigned(members.get(f"{kind}-max-length", old.length)),
            )
            for kind, old in self.limits.items()
        }
        return ThrottleLimits(limits, _unsigned(members.get(_IOPS_SIZE, self.iops_size)))

    def members(self) -> dict[str, int]:
        """Return ThrottleLimits with all its members."""
        result = {}
        for kind, limit in self.limits.items():
            result[kind] = limit.average
            result[f"{kind}-max"] = limit.maximum
            result[f"{kind}-max-length"] = limit.length
        result[_IOPS_SIZE] = self.iops_size
        return result

    @property
    def enabled(self) -> bool:
        """Whether there is any limit."""
        return any(limit.average for limit in self.limits.values())

    def check(self) -> None:
        """Raise ``QmpError`` for limits that contradict each other (throttle_is_valid)."""
        if any(self._is_split(unit, part) for unit in ("bps", "iops") for part in _PARTS):
            raise QmpError(
                "bps/iops/max total values and read/write values cannot be used at the same time"
            )
        if self.iops_size and not any(
            self.limits[kind].average for kind in KINDS if kind.startswith("iops")
        ):
            raise QmpError("iops size requires an iops value to be set")
        for limit in self.limits.values():
            _check(limit)

    def _is_split(self, unit: str, part: str) -> bool:
        """Return whether both the total and a single limit of a kind are set."""
        total, read, write = (
            getattr(self.limits[f"{unit}-{which}"], part) for which in ("total", "read", "write")
        )
        return bool(total and (read or write))


_PARTS: Final = ("average", "maximum")


def _check(limit: Limit) -> None:
    if limit.average > VALUE_MAX or limit.maximum > VALUE_MAX:
        raise QmpError(f"bps/iops/max values must be within [0, {VALUE_MAX}]")
    if not limit.length:
        raise QmpError("the burst length cannot be 0")
    if limit.length > 1 and not limit.maximum:
        raise QmpError("burst length set without burst rate")
    if limit.maximum and limit.length > VALUE_MAX // limit.maximum:
        raise QmpError("burst length too high for this burst rate")
    if limit.maximum and not limit.average:
        raise QmpError("bps_max/iops_max require corresponding bps/iops values")
    if limit.maximum and limit.maximum < limit.average:
        raise QmpError("bps_max/iops_max cannot be lower than bps/iops")


def check_lengths(members: Mapping[str, int]) -> None:
    """Raise ``QmpError`` for a burst in ``limits`` that is longer than QEMU counts."""
    for name, value in members.items():
        if name.endswith("-max-length") and value > LENGTH_MAX:
            raise QmpError(f"{name} value must be in the range [0, {LENGTH_MAX}]")


def _unsigned(value: int) -> int:
    return value % 2**64


_OLD_WORDS: Final = {
    "bps": "bps-total",
    "bps_rd": "bps-read",
    "bps_wr": "bps-write",
    "iops": "iops-total",
    "iops_rd": "iops-read",
    "iops_wr": "iops-write",
}
OLD_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        old + part: new + part.replace("_", "-")
        for old, new in _OLD_WORDS.items()
        for part in ("", "_max", "_max_length")
    }
    | {"iops_size": _IOPS_SIZE}
)
"""The members of BlockIOThrottle and BlockDeviceInfo to those of ThrottleLimits."""


def device_members(limits: ThrottleLimits) -> dict[str, Any]:
    """Return the members of BlockDeviceInfo that describe a device's limits.

    Those of bursts are there only where one may be, ``iops_size`` only where it is set.
    """
    members = limits.members()
    result = {}
    for old, new in OLD_NAMES.items():
        burst = new.removesuffix("-length")
        if burst in KINDS or members[burst]:
            result[old] = members[new]
    return result
