"""What two runs cannot have in common is replaced before it is compared.

``MASKED`` names the members; besides, the directory of the run becomes ``DIR``, and node names that
the program made up are numbered in the order in which they are first seen.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from .script import SLOW

MASKED: Mapping[str, str] = {
    "timestamp": "time",
    "date-sec": "time",
    "date-nsec": "time",
    "vm-clock-sec": "time",
    "vm-clock-nsec": "time",
    "actual-size": "how the file system stores the image",
    "rd_total_time_ns": "time",
    "wr_total_time_ns": "time",
    "flush_total_time_ns": "time",
    "unmap_total_time_ns": "time",
    "idle_time_ns": "time",
}
"""Members that depend on more than on the commands, and on what."""

PROGRESS = frozenset({*MASKED, "offset", "current-progress", "count"})
"""The same in what reports a job that is not waited for."""

FOLLOWING = frozenset({"mirror", "commit"})
"""Types of jobs that go on copying what the guest writes: how far they are changes by itself."""
FOLLOWED = frozenset({*PROGRESS, "total-progress", "len", "busy"})
"""The same in what reports such a job."""

_GENERATED = re.compile(r"#block\d+")
_DISK_SIZE = re.compile(r"(?<=disk size: ).*")
_VM_SIZE = re.compile(r" +[\d.]+ (?:[KMGT]i)?B(?= +DATE)")
"""How much of a guest's memory a snapshot in a table holds; ours hold none."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


class Mask:
    """Replaces what one run cannot have in common with another."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._names: dict[str, str] = {}

    def __call__(self, value: Any) -> Any:
        """Return the value with its replacements."""
        match value:
            case dict():
                hidden = _hidden(value)
                return {
                    self._text(key): "masked" if key in hidden else self(value[key])
                    for key in sorted(value)
                }
            case list():
                return [self(item) for item in value]
            case str():
                return self._text(value)
        return value

    def _text(self, text: str) -> str:
        text = _DATE.sub("DATE", text.replace(self._directory, "DIR"))
        text = _DISK_SIZE.sub("masked", text)
        text = _VM_SIZE.sub(" masked", text)
        return _GENERATED.sub(self._number, text)

    def _number(self, match: re.Match[str]) -> str:
        return self._names.setdefault(match.group(), f"#block({len(self._names)})")


def _hidden(value: dict[str, Any]) -> Collection[str]:
    if value.get("type") in FOLLOWING:
        return FOLLOWED
    return PROGRESS if _is_slow(value) else MASKED


def _is_slow(value: dict[str, Any]) -> bool:
    if "granularity" in value and "name" not in value:  # the bitmap in which a job notes its work
        return True
    return any(str(value.get(name, "")).startswith(SLOW) for name in ("id", "device"))
