"""Pull backups as oVirt makes them: with the server and the client of ovirt-imageio.

    imageio_backup.py full|inc --socket QMP --disks vda,vdb STORE
    imageio_backup.py restore STORE DISK OUT

The guest writes on; what it overwrites is first copied to a scratch image, which is exported over
NBD (docs/pull-backup.md). oVirt lets libvirt do that part; here it is done with QMP. The data goes
from the NBD server through imageio's HTTP server, which runs in this process, to imageio's client,
which writes images through qemu-nbd. An increment has the last backup as its backing file.

Bitmap imageio-N records what changes after backup N. It is removed when backup N+1 is complete;
backup N+1 reads it and leaves it alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ovirt_imageio import client
from ovirt_imageio._internal import config, server

PATIENCE = 20
"""Seconds that the emulator has for a reply, or to end a job."""
OURS = "imageio-"
"""Our jobs, nodes, exports and bitmaps begin so."""


class BackupError(Exception):
    """The backup is not made."""


class Qmp:
    """A connection to the monitor."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(path)
        self._lines = self._socket.makefile("rb")
        self._read()
        self.execute("qmp_capabilities")

    def _read(self) -> dict:
        line = self._lines.readline()
        if not line:
            raise BackupError("the emulator is gone")
        return json.loads(line)

    def execute(self, command: str, **arguments: object) -> object:
        """Run a command; raises ``BackupError`` or ``OSError``."""
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "event" in (reply := self._read()):
            pass
        if "error" in reply:
            raise BackupError(f"{command}: {reply['error']['desc']}")
        return reply["return"]

    def quietly(self, command: str, **arguments: object) -> None:
        """Run a command that may fail."""
        with contextlib.suppress(BackupError, OSError):
            self.execute(command, **arguments)


class Backup:
    """One call. ``work`` is for what nobody needs afterwards, ``out`` for the new images."""

    def __init__(self, qmp: Qmp, store: Path, work: Path, disks: list[str]) -> None:
        self.qmp, self.store, self.work, self.disks = qmp, store, work, disks
        self.out = work.with_suffix(".out")  # beside the last backup: its path is relative to it
        self.last = last_of(store)
        self.number = self.last + 1
        self.sizes: dict[str, int] = {}

    def run(self, *, full: bool) -> None:
        """Make a backup; a full one if there is nothing that an incremental one can be based on."""
        self.clean_up()
        full = full or not all(map(self.has_bitmap, self.disks))
        self.out.mkdir()
        try:
            self.begin(full=full)
            with serving() as imageio:
                for disk in self.disks:
                    self.download(imageio, disk, full=full)
        finally:
            self.clean_up()
        self.publish()

    def clean_up(self) -> None:
        """Remove what this call, or one that was killed, has left in the emulator."""
        self.qmp.quietly("nbd-server-stop")
        for disk in self.disks:
            self.qmp.quietly("block-job-cancel", device=OURS + disk, force=True)
        end = time.monotonic() + PATIENCE
        while any(job["id"].startswith(OURS) for job in self.qmp.execute("query-jobs")):
            if time.monotonic() > end:
                raise BackupError("a job of an earlier call does not end")
            time.sleep(0.02)
        for disk in self.disks:
            self.qmp.quietly("blockdev-del", node_name=OURS + disk)

    def bitmaps(self, disk: str) -> list[dict]:
        """Return our bitmaps of a disk, and note its size."""
        nodes = self.qmp.execute("query-named-block-nodes")
        node = next(each for each in nodes if each["node-name"] == disk)
        self.sizes[disk] = node["image"]["virtual-size"]
        return [each for each in node.get("dirty-bitmaps", []) if each["name"].startswith(OURS)]

    def has_bitmap(self, disk: str) -> bool:
        """Return whether what changed since the last backup is known."""
        return any(
            each["name"] == f"{OURS}{self.last}"
            and each["persistent"]
            and each["recording"]
            and not each.get("inconsistent")
            for each in self.bitmaps(disk)
        )

    def begin(self, *, full: bool) -> None:
        """Begin to keep what the guest overwrites, of all disks at one moment; export it."""
        actions = []
        for disk in self.disks:
            scratch = str(self.work / f"{disk}.scratch")
            bitmap = f"{OURS}{self.number}"
            if any(each["name"] == bitmap for each in self.bitmaps(disk)):  # of a failed backup
                self.qmp.execute("block-dirty-bitmap-remove", node=disk, name=bitmap)
            create(scratch, self.sizes[disk])
            self.qmp.execute(
                "blockdev-add",
                driver="qcow2",
                node_name=OURS + disk,
                backing=disk,
                file={"driver": "file", "filename": scratch},
            )
            actions += actions_for(disk, bitmap, None if full else f"{OURS}{self.last}")
        self.qmp.execute("transaction", actions=actions)
        address = {"type": "unix", "data": {"path": str(self.work / "nbd")}}
        self.qmp.execute("nbd-server-start", addr=address)
        for disk in self.disks:
            self.qmp.execute(
                "block-export-add",
                type="nbd",
                id=OURS + disk,
                node_name=OURS + disk,
                name=disk,
                allocation_depth=True,
                bitmaps=[] if full else ["changed"],
            )

    def download(self, imageio: server.Server, disk: str, *, full: bool) -> None:
        """Let imageio's client download a disk from its server."""
        ticket = {
            "uuid": str(uuid.uuid4()),
            "size": self.sizes[disk],
            "url": f"nbd:unix:{self.work}/nbd:exportname={disk}",
            "ops": ["read"],
            "dirty": not full,
            "timeout": 300,
        }
        imageio.auth.add(ticket)
        host, port = imageio.remote_service.address[:2]
        try:
            client.download(
                f"http://{host}:{port}/images/{ticket['uuid']}",
                str(self.out / f"{disk}.qcow2"),
                None,
                incremental=not full,
                backing_file=None if full else f"../{self.last}/{disk}.qcow2",
                backing_format=None if full else "qcow2",
            )
        finally:
            imageio.auth.remove(ticket["uuid"])  # when its connections are closed

    def publish(self) -> None:
        """Make the backup durable, then name it, then remove the bitmaps before its own."""
        for path in (*self.out.iterdir(), self.out):
            sync(path)
        target = self.store / str(self.number)
        shutil.rmtree(target, ignore_errors=True)  # of a call that was killed before it was named
        self.out.rename(target)
        (self.work / "last").write_text(str(self.number))
        sync(self.work / "last")
        sync(self.store)
        (self.work / "last").rename(self.store / "last")
        sync(self.store)
        for disk in self.disks:
            for bitmap in self.bitmaps(disk):
                if bitmap["name"] != f"{OURS}{self.number}":
                    name = bitmap["name"]
                    self.qmp.quietly("block-dirty-bitmap-remove", node=disk, name=name)


def actions_for(disk: str, bitmap: str, last: str | None) -> list[dict]:
    """Return what a transaction does for a disk; ``last`` is the bitmap of the last backup."""
    scratch = OURS + disk
    found = [
        ("block-dirty-bitmap-add", {"node": disk, "name": bitmap, "persistent": True}),
        (
            "blockdev-backup",
            {"job-id": OURS + disk, "device": disk, "target": scratch, "sync": "none"},
        ),
    ]
    if last is not None:
        source = [{"node": disk, "name": last}]
        merge = {"node": scratch, "target": "changed", "bitmaps": source}
        found += [
            ("block-dirty-bitmap-add", {"node": scratch, "name": "changed", "disabled": True}),
            ("block-dirty-bitmap-merge", merge),
        ]
    return [{"type": verb, "data": data} for verb, data in found]


@contextlib.contextmanager
def serving() -> Iterator[server.Server]:
    """Run imageio's server, as its daemon does."""
    settings = config.Config()
    settings.daemon.drop_privileges = False
    settings.daemon.poll_interval = 0.05
    settings.tls.enable = False
    settings.control.enable = False
    settings.local.socket = ""
    settings.remote.host, settings.remote.port = "127.0.0.1", 0
    running = server.Server(settings)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def create(path: str, size: int) -> None:
    """Create an empty qcow2 image."""
    words = ["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)]
    subprocess.run(words, check=True)


def sync(path: Path) -> None:
    """Make a file or a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_of(store: Path) -> int:
    """Return the number of the last backup; 0: there is none."""
    try:
        return int((store / "last").read_text())
    except FileNotFoundError:
        return 0


def restore(store: Path, disk: str, out: str) -> None:
    """Write a disk of the last backup to a raw file."""
    image = str(store / str(last_of(store)) / f"{disk}.qcow2")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, out], check=True)


def back_up(args: argparse.Namespace) -> None:
    """Make a backup."""
    for other in args.store.glob("work-*"):  # of calls that failed or were killed
        shutil.rmtree(other)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=args.store))
    try:
        Backup(Qmp(args.socket), args.store, work, args.disks).run(full=args.verb == "full")
    finally:
        shutil.rmtree(work)


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("full", "inc"):
        verb = verbs.add_parser(name)
        verb.add_argument("--socket", required=True)
        verb.add_argument("--disks", required=True, type=lambda text: text.split(","))
        verb.add_argument("store", type=Path)
    verb = verbs.add_parser("restore")
    verb.add_argument("store", type=Path)
    verb.add_argument("disk")
    verb.add_argument("out")
    args = parser.parse_args()
    try:
        if args.verb == "restore":
            restore(args.store, args.disk, args.out)
        else:
            back_up(args)
    except Exception as error:  # noqa: BLE001 - imageio raises errors of many kinds
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
