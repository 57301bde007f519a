"""A careful backup client: full and incremental backups of several disks, with qemu.qmp.

    careful.py full --socket QMP --disks vda,vdb STORE
    careful.py inc  --socket QMP --disks vda,vdb STORE
    careful.py restore STORE DISK OUT

How it keeps its promise, that after exit status 0 the backup restores:

* Each backup begins a bitmap of its own (``backup-N``) in the transaction that starts it, so the
  bitmap records every write that the backup does not have. The backup reads the bitmap of the last
  good one and leaves it alone (``bitmap-mode: never``). Only when the manifest with the new backup
  is durable are older bitmaps removed. Whatever is lost before, a job, a reply, the emulator or
  this process, the manifest and the bitmap that it names still fit each other.
* All disks are in one transaction: one moment for all. One failure fails the backup.
* It listens for events before it starts the jobs, looks at their ``error``, and waits no longer
  than ``PATIENCE`` for anything.
* A bitmap that is missing, inconsistent or not persistent is worth nothing: the backup is full.
* What earlier tries left, jobs, nodes, bitmaps and files, is removed first.
* Files are synced, then named in the manifest; the manifest is synced, then renamed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from qemu.qmp import EventListener, QMPClient, QMPError, Runstate

PATIENCE = 30
"""Seconds that the emulator has for a command, and a job for its backup.
"""
OURS = "backup-"
"""Our jobs, nodes and bitmaps begin so."""
ENDS = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")


class BackupError(Exception):
    """The backup is not made."""


class Backup:
    """One call."""

    def __init__(self, qmp: QMPClient, store: Path, disks: list[str]) -> None:
        self.qmp = qmp
        self.store = store
        self.disks = disks
        self.manifest = read_manifest(store)
        """What the last good backup is: its number, and the image of each disk."""
        self.number = self.manifest["number"] + 1
        self.base = f"{OURS}{self.manifest['number']}"
        """The bitmap that has recorded all writes since the last good backup."""
        self.bitmap = f"{OURS}{self.number}"
        """The bitmap that begins with this one."""
        self.ended = EventListener(names=ENDS)
        self.sizes: dict[str, int] = {}

    async def execute(self, command: str, **arguments: object) -> object:
        """Run a command; raises ``QMPError`` or ``TimeoutError``."""
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await asyncio.wait_for(self.qmp.execute(command, arguments), PATIENCE)

    async def run(self, *, full: bool) -> None:
        """Make a backup; a full one if there is nothing that an incremental one can be based on."""
        nodes = await self.execute("query-named-block-nodes")
        self.sizes = {node["node-name"]: node["image"]["virtual-size"] for node in nodes}
        await self.remove_remains()
        full = full or not await self.is_sound(self.base)
        for disk in self.disks:
            self.create_image(disk, full=full)
            await self.add_target(disk)
        await self.copy(full=full)
        for disk in self.disks:
            await self.execute("blockdev-del", node_name=self.target_of(disk))
        self.publish()
        await self.remove_bitmaps(keep=self.bitmap)

    # Names

    def target_of(self, disk: str) -> str:
        """Return the job and the node that write the backup of a disk."""
        return f"{OURS}{disk}"

    def image_of(self, disk: str) -> Path:
        """Return the file of a disk in this backup."""
        return self.store / f"{disk}.{self.number}.qcow2"

    # Before

    async def remove_remains(self) -> None:
        """Remove what calls that did not end have left in the emulator."""
        jobs = [job["id"] for job in await self.execute("query-jobs")]
        with self.qmp.listen(self.ended):
            for job in [job for job in jobs if job.startswith(OURS)]:
                await self.execute("job-cancel", id=job)
                await asyncio.wait_for(self.ended.get(), PATIENCE)
        for node in await self.execute("query-named-block-nodes", flat=True):
            if node["node-name"].startswith(OURS):
                await self.execute("blockdev-del", node_name=node["node-name"])
        await self.remove_bitmaps(keep=self.base)

    async def bitmaps(self) -> dict[str, dict[str, dict]]:
        """Return our bitmaps: disk to name to BlockDirtyInfo."""
        nodes = await self.execute("query-named-block-nodes", flat=True)
        return {
            node["node-name"]: {
                bitmap["name"]: bitmap
                for bitmap in node.get("dirty-bitmaps", [])
                if bitmap.get("name", "").startswith(OURS)
            }
            for node in nodes
            if node["node-name"] in self.disks
        }

    async def is_sound(self, name: str) -> bool:
        """Return whether a bitmap is there on all disks, and knows every write since its begin."""
        found = await self.bitmaps()
        return all(
            name in found[disk]
            and found[disk][name]["recording"]
            and found[disk][name]["persistent"]
            and not found[disk][name].get("inconsistent", False)
            for disk in self.disks
        )

    async def remove_bitmaps(self, *, keep: str) -> None:
        """Remove our bitmaps but one."""
        for disk, found in (await self.bitmaps()).items():
            for name in sorted(found.keys() - {keep}):
                await self.execute("block-dirty-bitmap-remove", node=disk, name=name)

    def create_image(self, disk: str, *, full: bool) -> None:
        """Create the file for a disk; one of a try that failed is overwritten."""
        words = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if not full:
            words += ["-F", "qcow2", "-b", self.manifest["images"][disk]]
        size = [str(self.sizes[disk])] if full else []
        subprocess.run([*words, str(self.image_of(disk)), *size], check=True)

    async def add_target(self, disk: str) -> None:
        """Open the file for a disk; the job writes it, so its backing file is not needed."""
        file = {"driver": "file", "filename": str(self.image_of(disk))}
        await self.execute(
            "blockdev-add", driver="qcow2", node_name=self.target_of(disk), file=file, backing=None
        )

    # The backup

    def actions(self, disk: str, *, full: bool) -> list[dict]:
        """Return what one disk adds to the transaction."""
        bitmap = {"node": disk, "name": self.bitmap, "persistent": True}
        backup = {"job-id": self.target_of(disk), "device": disk, "target": self.target_of(disk)}
        if full:
            backup["sync"] = "full"
        else:
            backup |= {"sync": "bitmap", "bitmap": self.base, "bitmap-mode": "never"}
        return [
            {"type": "block-dirty-bitmap-add", "data": bitmap},
            {"type": "blockdev-backup", "data": backup},
        ]

    async def copy(self, *, full: bool) -> None:
        """Run the jobs. It listens before they start: a job may be over before the reply."""
        with self.qmp.listen(self.ended):
            await self.start(full=full)
            await self.wait_for_jobs()

    async def start(self, *, full: bool) -> None:
        """Start the jobs of all disks at one moment."""
        actions = [action for disk in self.disks for action in self.actions(disk, full=full)]
        await self.execute("transaction", actions=actions)

    async def wait_for_jobs(self) -> None:
        """Return when all jobs have ended; raises ``BackupError`` unless all have succeeded."""
        waiting = {self.target_of(disk) for disk in self.disks}
        failures = []
        while waiting:
            event = await asyncio.wait_for(self.next_event(), self.patience())
            if event["data"]["device"] in waiting:
                waiting.discard(event["data"]["device"])
                if self.has_failed(event):
                    failures.append(f"{event['data']['device']}: {event['data'].get('error')}")
        if failures:
            raise BackupError("; ".join(failures))

    def patience(self) -> float | None:
        """Return how many seconds a job has."""
        return PATIENCE

    async def next_event(self) -> dict:
        """Return the next end of a job; fails when the emulator is gone."""
        if self.qmp.runstate is not Runstate.RUNNING and self.ended.empty():
            raise BackupError("the connection is lost")
        event = asyncio.ensure_future(self.ended.get())
        gone = asyncio.ensure_future(self.is_gone())
        await asyncio.wait({event, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not event.done():
            event.cancel()
            raise BackupError("the connection is lost")
        return event.result()

    async def is_gone(self) -> None:
        """Return when the emulator is gone, which it may be when this begins."""
        if self.qmp.runstate is Runstate.RUNNING:
            await self.qmp.runstate_changed()

    def has_failed(self, event: dict) -> bool:
        """Return whether a job has not written its backup."""
        return event["event"] != "BLOCK_JOB_COMPLETED" or "error" in event["data"]

    # After

    def publish(self) -> None:
        """Make the backup the last good one, for good."""
        images = {disk: self.image_of(disk).name for disk in self.disks}
        for name in images.values():
            sync(self.store / name)
        new = self.store / "manifest.new"
        new.write_text(json.dumps({**self.manifest, "number": self.number, "images": images}))
        sync(new)
        new.rename(self.store / "manifest.json")
        sync(self.store)


def read_manifest(store: Path) -> dict:
    """Return the last good backup, number 0 if there is none."""
    try:
        return json.loads((store / "manifest.json").read_text())
    except FileNotFoundError:
        return {"number": 0, "images": {}}


def sync(path: Path) -> None:
    """Return when a file or directory is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def restore(store: Path, disk: str, out: str) -> None:
    """Write the last good backup of a disk to a raw file."""
    image = store / read_manifest(store)["images"][disk]
    os.execvp("qemu-img", ["qemu-img", "convert", "-O", "raw", str(image), out])


async def call(args: argparse.Namespace, kind: type[Backup]) -> None:
    """Connect and make a backup."""
    qmp = QMPClient("backup")
    await asyncio.wait_for(qmp.connect(args.socket), PATIENCE)
    try:
        backup = kind(qmp, args.store, args.disks.split(","))
        await backup.run(full=args.verb == "full")
    finally:
        await qmp.disconnect()


def main(kind: type[Backup] = Backup) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("full", "inc"):
        command = verbs.add_parser(verb)
        command.add_argument("--socket", required=True)
        command.add_argument("--disks", required=True)
        command.add_argument("store", type=Path)
    command = verbs.add_parser("restore")
    command.add_argument("store", type=Path)
    command.add_argument("disk")
    command.add_argument("out")
    args = parser.parse_args()
    try:
        if args.verb == "restore":
            restore(args.store, args.disk, args.out)
        else:
            asyncio.run(call(args, kind))
    except (
        BackupError,
        QMPError,
        OSError,
        EOFError,
        TimeoutError,
        subprocess.CalledProcessError,
    ) as error:
        print(f"{args.verb}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
