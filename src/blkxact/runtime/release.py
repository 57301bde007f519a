"""The releases of QEMU that blkxact can be taken for: what ``--emulate`` chooses from.

QEMU's counterpart: ``VERSION``.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Release(NamedTuple):
    """One release of QEMU."""

    major: int
    minor: int
    micro: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.micro}"

    def members(self) -> dict[str, int]:
        """Return the members of VersionTriple, in the order of the schema."""
        return {"major": self.major, "minor": self.minor, "micro": self.micro}


RELEASES: Final = {
    "7.2": Release(7, 2, 22),
    "8.2": Release(8, 2, 10),
    "9.2": Release(9, 2, 4),
    "10.0": Release(10, 0, 2),
    "11.1": Release(11, 1, 0),
}
DEFAULT_RELEASE: Final = RELEASES["7.2"]
