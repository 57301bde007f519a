"""The contract of images that keep snapshots of themselves.

QEMU's counterpart: ``block/snapshot.c``; ``qapi/block-core.json`` (SnapshotInfo).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

NANOSECONDS = 10**9


class InternalSnapshot(Protocol):
    """One snapshot, as recorded in its image."""

    id: str
    name: str
    date_sec: int
    date_nsec: int
    vm_clock_nsec: int
    vm_state_size: int
    disk_size: int | None
    icount: int | None


class InternalSnapshots(Protocol):
    """The snapshots of one image. Every change holds up all requests meanwhile."""

    @property
    def entries(self) -> Sequence[InternalSnapshot]:
        """The snapshots in the order of the image's table."""

    async def create(
        self, name: str, *, date_us: int, vm_clock_nsec: int = 0, icount: int | None = None
    ) -> InternalSnapshot:
        """Keep what the disk holds now; raises ``OSError``, and nothing has changed then."""

    async def apply(self, snapshot: InternalSnapshot) -> None:
        """Make the disk hold, and be as long as, what it was then; raises ``OSError``."""

    async def delete(self, snapshot: InternalSnapshot) -> None:
        """Forget a snapshot; raises ``OSError``."""

    async def look_at(self, snapshot: InternalSnapshot) -> None:
        """Show a read-only image as it was then, until it is closed; raises ``OSError``."""


def describe_snapshot(snapshot: InternalSnapshot) -> dict[str, Any]:
    """Return SnapshotInfo."""
    info: dict[str, Any] = {
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": snapshot.vm_clock_nsec // NANOSECONDS,
        "vm-clock-nsec": snapshot.vm_clock_nsec % NANOSECONDS,
    }
    if snapshot.icount is not None:
        info["icount"] = snapshot.icount
    return info


def find_snapshot(
    snapshots: InternalSnapshots,
    *,
    snapshot_id: str | None = None,
    name: str | None = None,
) -> InternalSnapshot | None:
    """Return the first snapshot that has the id and the name, as far as they are given."""
    for snapshot in snapshots.entries:
        if snapshot_id in (None, snapshot.id) and name in (None, snapshot.name):
            return snapshot
    return None


def find_by_id_or_name(snapshots: InternalSnapshots, text: str) -> InternalSnapshot | None:
    """Return the snapshot of that id, or else the first of that name."""
    return find_snapshot(snapshots, snapshot_id=text) or find_snapshot(snapshots, name=text)
