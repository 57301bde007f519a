"""The demo, chapter by chapter. Every promise that it states is checked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from blkxact.cli.errors import CliError
from blkxact.cli.image_create import create_image
from blkxact.qapi.sizes import human_size

from .disks import KIB, MIB, Disk, guest_writes
from .emulator import BITMAP, Emulator, running
from .report import bitmap_table, closing_table, completion_line

ENOSPC: Final = 28
SHOW_SECONDS: Final = 1.5
"""On a terminal a job is slowed down to take this long, so that its bar can be seen."""
SLOW_AT_MOST: Final = 1024 * MIB
"""Bytes of a job; a bigger one is not slowed down."""

IDENTICAL, DIFFERENT = 0, 1
"""Exit statuses of ``blkxact image compare``."""


class Scenario:
    """One telling of the story. ``play`` returns whether all promises were kept."""

    def __init__(
        self,
        console: Console,
        directory: Path,
        disks: list[Disk],
        *,
        mode: str,
        verbose: bool,
        record: Path | None = None,
    ) -> None:
        self._console = console
        self._directory = directory
        self._disks = disks
        self._mode = mode
        self._verbose = verbose
        self._record = record
        self._chapter = 0
        self._emulator: Emulator

    async def play(self) -> bool:
        """Run all chapters."""
        async with running(
            self._directory,
            self._disks,
            self._console,
            verbose=self._verbose,
            record=self._record,
        ) as self._emulator:
            await self._fill_disks()
            await self._full_backups()
            await self._write_more()
            await self._failing_increment()
            await self._good_increment()
        await self._restore()
        kept = all(disk.restored for disk in self._disks)
        self._console.print()
        self._console.print(closing_table(self._disks))
        if kept:
            self._console.print("No written byte was lost: every disk can be restored.")
        else:
            self._console.print("[red]A restored chain differs from its disk.[/]")
        return kept

    async def _fill_disks(self) -> None:
        names = ", ".join(f"{disk.name} ({human_size(disk.size)})" for disk in self._disks)
        self._say(f"The guest writes to its disks: {names}")
        for disk in self._disks:
            await self._emulator.plug_in(disk)
            written = await self._emulator.write(
                disk, guest_writes(disk, "first", count=40, length=MIB)
            )
            self._report(f"{disk.name}: {disk.origin}, {human_size(written)} written")

    async def _full_backups(self) -> None:
        self._say("One transaction: a dirty bitmap and a full backup for each disk")
        for disk in self._disks:
            await create_image(disk.full, "qcow2", disk.size)
            await self._add_target(disk, disk.full)
        actions = [
            {
                "type": "block-dirty-bitmap-add",
                "data": {"node": disk.name, "name": BITMAP, "granularity": 64 * KIB},
            }
            for disk in self._disks
        ]
        backups = [self._backup(disk, "full", disk.size, sync="full") for disk in self._disks]
        # As in QEMU, bitmaps can be added only where each action completes by itself.
        await self._transaction(
            "full", [*actions, *backups], mode="individual", meanwhile="while full backups run"
        )
        self._require("full", dict.fromkeys(self._disk_names(), "completed"))

    async def _write_more(self) -> None:
        self._say("The guest writes on; the bitmaps remember where")
        for disk in self._disks:
            await self._emulator.write(disk, guest_writes(disk, "more", count=60, length=64 * KIB))
            await self._look_at_bitmap(disk, "before")
            self._report(f"{disk.name}: {human_size(disk.dirty['before'])} dirty")

    async def _failing_increment(self) -> None:
        broken = self._disks[-1]
        self._say(
            f"One incremental transaction over all disks; the target of {broken.name} is full"
        )
        for disk in self._disks:
            await self._new_increment(disk, broken=disk is broken)
        await self._transaction("try1", self._increments("try1"))
        if not broken.outcome["try1"].startswith("failed"):
            raise CliError(f"{broken.name}: the backup {broken.outcome['try1']}; it had to fail")
        for disk in self._disks:
            await self._look_at_bitmap(disk, "try1")
            disk.increment.unlink()
        self._console.print(bitmap_table(self._disks))
        self._require_kept_bitmaps()

    async def _good_increment(self) -> None:
        self._say("The same transaction again, with a good target")
        for disk in self._disks:
            await self._new_increment(disk, broken=False)
        await self._transaction("try2", self._increments("try2"))
        self._require("try2", dict.fromkeys(self._disk_names(), "completed"))
        for disk in self._disks:
            await self._look_at_bitmap(disk, "try2")

    async def _restore(self) -> None:
        self._say("The daemon has quit. Is each chain of backups equal to its disk?")
        for disk in self._disks:
            # The full backup alone must differ, or the comparison would prove nothing.
            stale = await self._compare(disk.path, disk.full)
            equal = await self._compare(disk.path, disk.increment)
            disk.restored = stale == DIFFERENT and equal == IDENTICAL
            verdict = "[green]identical[/]" if disk.restored else "[red]DIFFERENT[/]"
            self._report(
                f"$ blkxact image compare {disk.path.name} {disk.increment.name}: {verdict}"
            )

    # Parts of chapters

    async def _transaction(
        self,
        chapter: str,
        actions: list[dict[str, Any]],
        *,
        mode: str | None = None,
        meanwhile: str | None = None,
    ) -> None:
        """Run the actions, wait for their jobs, and note what became of each."""
        jobs = {f"{disk.name}-{chapter}": disk for disk in self._disks}
        properties = {"id": f"demo-{chapter}", "completion-mode": mode or self._mode}
        async with self._emulator.watching(properties["id"], jobs) as outcome:
            await self._emulator.execute(
                "transaction", {"actions": actions, "properties": properties}
            )
            if meanwhile is not None:
                for disk in self._disks:
                    await self._emulator.write(
                        disk, guest_writes(disk, meanwhile, count=8, length=64 * KIB)
                    )
        self._report(completion_line(outcome.completion))
        for job, disk in jobs.items():
            disk.outcome[chapter] = outcome.jobs[job]
            await self._emulator.execute("blockdev-del", {"node-name": f"{disk.name}-target"})

    def _increments(self, chapter: str) -> list[dict[str, Any]]:
        return [
            self._backup(disk, chapter, disk.dirty["before"], sync="incremental", bitmap=BITMAP)
            for disk in self._disks
        ]

    def _backup(self, disk: Disk, chapter: str, length: int, **more: str) -> dict[str, Any]:
        data: dict[str, Any] = {
            "job-id": f"{disk.name}-{chapter}",
            "device": disk.name,
            "target": f"{disk.name}-target",
            **more,
        }
        if self._console.is_terminal and 0 < length <= SLOW_AT_MOST:
            data["speed"] = int(length / SHOW_SECONDS)
        return {"type": "blockdev-backup", "data": data}

    async def _new_increment(self, disk: Disk, *, broken: bool) -> None:
        await create_image(
            disk.increment, "qcow2", disk.size, backing=disk.full, backing_format="qcow2"
        )
        await self._add_target(disk, disk.increment, broken=broken)

    async def _add_target(self, disk: Disk, path: Path, *, broken: bool = False) -> None:
        """Open the target image; a broken one fails each write of data for want of space."""
        file: dict[str, Any] = {"driver": "file", "filename": str(path)}
        if broken:
            rule = {"event": "write_aio", "errno": ENOSPC}
            file = {"driver": "blkdebug", "image": file, "inject-error": [rule]}
        await self._emulator.execute(
            "blockdev-add", {"driver": "qcow2", "node-name": f"{disk.name}-target", "file": file}
        )

    async def _look_at_bitmap(self, disk: Disk, chapter: str) -> None:
        bitmap = await self._emulator.bitmap(disk)
        if bitmap["busy"]:
            raise CliError(f"{disk.name}: the bitmap is busy though no job runs")
        disk.dirty[chapter] = bitmap["count"]
        disk.digest[chapter] = await self._emulator.bitmap_digest(disk)

    async def _compare(self, one: Path, other: Path) -> int:
        words = [sys.executable, "-m", "blkxact", "image", "compare", "-q", str(one), str(other)]
        done = await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, check=False
        )
        if done.returncode not in (IDENTICAL, DIFFERENT):
            raise CliError(f"image compare: {done.stderr.strip().removeprefix('blkxact: ')}")
        return done.returncode

    def _require(self, chapter: str, wanted: dict[str, str]) -> None:
        for disk in self._disks:
            if disk.outcome[chapter] != wanted[disk.name]:
                raise CliError(f"{disk.name}: the backup {disk.outcome[chapter]}")

    def _require_kept_bitmaps(self) -> None:
        for disk in self._disks:
            if disk.digest["try1"] != disk.digest["before"]:
                raise CliError(f"{disk.name}: the bitmap changed though its transaction failed")

    def _disk_names(self) -> list[str]:
        return [disk.name for disk in self._disks]

    def _say(self, text: str) -> None:
        self._chapter += 1
        self._console.print(f"\n[bold]{self._chapter}. {text}[/]")

    def _report(self, text: str) -> None:
        self._console.print(f"  {text}")
