"""Internal snapshots as a person reads them.

QEMU's counterpart: ``bdrv_snapshot_dump`` in ``block/qapi.c``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blkxact.qapi.sizes import human_size


def snapshot_table(snapshots: Sequence[Mapping[str, Any]], *, apart: bool = False) -> Iterator[str]:
    """Yield the lines of the table of snapshots (SnapshotInfo) that a person reads.

    ``apart``: no column has a space in it, and all have one between them, as in QEMU since 9.0.
    """
    if apart:
        yield _APART.format("ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT")
    else:
        yield _CLOSE.format("ID", " TAG", " VM SIZE", "DATE", "VM CLOCK", "ICOUNT")
    for snapshot in snapshots:
        yield _line(snapshot, apart=apart)


_APART = "{:7} {:16} {:>8} {:>19} {:>15} {:>10}"
_CLOSE = "{:9}{:17}{:>9}{:>20}{:>13}{:>11}"


def _line(snapshot: Mapping[str, Any], *, apart: bool) -> str:
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot["date-sec"]))
    seconds = snapshot["vm-clock-sec"]
    clock = f"{seconds // 60 % 60:02}:{seconds % 60:02}"
    clock += f".{snapshot['vm-clock-nsec'] // 1_000_000:03}"
    number, name, hours = snapshot["id"], snapshot["name"], seconds // 3600
    size, icount = human_size(snapshot["vm-state-size"]), snapshot.get("icount")
    if apart:
        icount = "--" if icount is None else icount
        return _APART.format(number, name, size, date, f"{hours:04}:{clock}", icount)
    icount = "" if icount is None else icount
    return _CLOSE.format(number, f" {name}", f" {size:>8}", date, f"{hours:02}:{clock}", icount)
