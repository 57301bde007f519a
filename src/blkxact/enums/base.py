"""What all enumerations of QAPI have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class QapiEnum(StrEnum):
    """An enumeration that a field of a model may have as its type."""

    @classmethod
    def named(cls, name: str) -> Self | None:
        """Return the member that has this name on the wire, if there is one."""
        return next((member for member in cls if member == name), None)
