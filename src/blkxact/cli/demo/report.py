"""The tables of the demo: what a person should see at a glance."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from blkxact.cli.sizes import human_size

from .disks import Disk


def bitmap_table(disks: Iterable[Disk]) -> Table:
    """Return the bitmaps before and after the failed transaction."""
    table = Table(box=None, padding=(0, 2))
    for column in ("", "job", "dirty before", "dirty after", "every bit kept"):
        table.add_column(column)
    for disk in disks:
        same = disk.digest["before"] == disk.digest["failed"]
        table.add_row(
            disk.name,
            disk.outcome["failed"],
            human_size(disk.dirty["before"]),
            human_size(disk.dirty["failed"]),
            _yes(same),
        )
    return table


def closing_table(disks: Iterable[Disk]) -> Table:
    """Return the whole story, a line for each disk."""
    table = Table(title="What happened", title_justify="left")
    for column in ("disk", "size", "full backup", "dirty", "transaction 1", "still dirty"):
        table.add_column(column)
    for column in ("transaction 2", "still dirty", "chain = disk"):
        table.add_column(column)
    for disk in disks:
        table.add_row(
            disk.name,
            human_size(disk.size),
            human_size(_taken(disk.full)),
            human_size(disk.dirty["before"]),
            disk.outcome["failed"].partition(":")[0],
            human_size(disk.dirty["failed"]),
            f"{disk.outcome['retried']}, {human_size(_taken(disk.increment))}",
            human_size(disk.dirty["retried"]),
            _yes(disk.restored),
        )
    return table


def _taken(path: Path) -> int:
    """Return the bytes that the image takes on its file system."""
    return path.stat().st_blocks * 512


def _yes(value: bool) -> str:
    return "[green]yes[/]" if value else "[red]NO[/]"
