"""Where two values differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from blkxact.qmp.json_text import encode_text

from .known import Difference

NOTHING: Final = "(nothing)"
"""Stands where one side has a value and the other has not."""


def compare(step: int, where: str, ours: Any, theirs: Any) -> list[Difference]:
    """Return the innermost places in which two values differ."""
    return [
        Difference(step, f"{where} {path}", one, other)
        for path, one, other in _differences("", ours, theirs)
    ]


def _differences(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the innermost places in which two values differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _differences(
                f"{path}/{key}", ours.get(key, NOTHING), theirs.get(key, NOTHING)
            )
    elif isinstance(ours, list) and isinstance(theirs, list):
        length = max(len(ours), len(theirs))
        for index, (one, other) in enumerate(
            zip(_filled(ours, length), _filled(theirs, length), strict=True)
        ):
            yield from _differences(f"{path}/{index}", one, other)
    elif encode_text(ours) != encode_text(theirs):
        yield path, ours, theirs


def _filled(values: list[Any], length: int) -> list[Any]:
    return values + [NOTHING] * (length - len(values))
