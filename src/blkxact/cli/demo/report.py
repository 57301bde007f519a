"""The tables of the demo: what a person should see at a glance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from blkxact.qapi.sizes import human_size

from .disks import Disk


def bitmap_table(disks: Iterable[Disk]) -> Table:
    """Return the bitmaps before and after the failed transaction."""
    table = Table(box=None, padding=(0, 2))
    for column in ("", "job", "dirty before", "dirty after", "every bit kept"):
        table.add_column(column)
    for disk in disks:
        same = disk.digest["before"] == disk.digest["try1"]
        table.add_row(
            disk.name,
            disk.outcome["try1"],
            human_size(disk.dirty["before"]),
            human_size(disk.dirty["try1"]),
            _yes(same),
        )
    return table


def closing_table(disks: Sequence[Disk]) -> Table:
    """Return the whole story from top to bottom, a column for each disk."""
    table = Table(title="What happened", title_justify="left")
    table.add_column("")
    for disk in disks:
        table.add_column(disk.name)

    def row(title: str, cell: Callable[[Disk], str]) -> None:
        table.add_row(title, *(cell(disk) for disk in disks))

    row("size of the disk", lambda disk: human_size(disk.size))
    row("full backup holds", lambda disk: human_size(_taken(disk.full)))
    row("written since (dirty)", lambda disk: human_size(disk.dirty["before"]))
    table.add_section()
    row("transaction 1: backup", lambda disk: disk.outcome["try1"].partition(":")[0])
    row("  still dirty", lambda disk: human_size(disk.dirty["try1"]))
    row("transaction 2: backup", lambda disk: disk.outcome["try2"])
    row("  still dirty", lambda disk: human_size(disk.dirty["try2"]))
    row("  increment holds", lambda disk: human_size(_taken(disk.increment)))
    table.add_section()
    row("restored chain equals disk", lambda disk: _yes(disk.restored))
    return table


def completion_line(completion: Mapping[str, Any]) -> str:
    """Return TRANSACTION_COMPLETED as a person reads it."""
    fates = sorted(
        f"{bitmap['node']}/{bitmap['name']} {bitmap['outcome']}" for bitmap in completion["bitmaps"]
    )
    line = f"transaction '{completion['id']}' {completion['status']}"
    return f"{line}; bitmaps: {', '.join(fates)}" if fates else line


def _taken(path: Path) -> int:
    """Return the bytes that the image takes on its file system."""
    return path.stat().st_blocks * 512


def _yes(value: bool) -> str:
    return "[green]yes[/]" if value else "[red]NO[/]"
