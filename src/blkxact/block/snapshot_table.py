"""Internal snapshots as a person reads them.

QEMU's counterpart: ``bdrv_snapshot_dump`` in ``block/qapi.c``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blkxact.qapi.sizes import human_size


def snapshot_table(snapshots: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table of snapshots (SnapshotInfo) that a person reads."""
    yield f"{'ID':10}{'TAG':17}{'VM SIZE':>8}{'DATE':>20}{'VM CLOCK':>13}{'ICOUNT':>11}"
    for snapshot in snapshots:
        yield _line(snapshot)


def _line(snapshot: Mapping[str, Any]) -> str:
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot["date-sec"]))
    seconds = snapshot["vm-clock-sec"]
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    clock += f".{snapshot['vm-clock-nsec'] // 1_000_000:03}"
    size, icount = human_size(snapshot["vm-state-size"]), snapshot.get("icount", "")
    return f"{snapshot['id']:9} {snapshot['name']:16} {size:>8}{date:>20}{clock:>13}{icount:>11}"
