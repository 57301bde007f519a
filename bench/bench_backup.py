"""Backup jobs side by side: every pattern of data, full and by bitmap, to qcow2 and to raw.

Two disks for each server, of its own and with the same bytes:

* ``full disk``: written in 1 MiB pieces from start to end. One bitmap has half of its 1 MiB pieces
  dirty, another a quarter of its 64 KiB pieces, both chosen at random.
* ``scattered``: one 64 KiB piece of eight holds data, chosen at random; the rest are holes. The
  bitmap has these pieces dirty.

The bits are set by the servers themselves, in the same way in both: an overlay with the pieces is
backed up (``sync=top``) onto the disk. A bitmap is kept (``bitmap-mode=never``), so that every turn
copies the same.

QEMU does not flush the target when a backup completes; blkxact does. So there are two times: until
the job completed, and until the target was closed, when with both it is on stable storage. The
processor time is that until the target was closed. On a disk there is a third time, with a target
that neither flushes (``cache.no-flush``): until the job completed, with nothing durable.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .harness import BenchError, Figure, Server, Settings, servers
from .images import compare, create, fill
from .places import directory_in, places

MIB = 1 << 20
PIECE = 65536
SEED = 20150527
SPREAD = 8
"""The scattered disk is so many times as long as its data."""
TARGETS = ("qcow2", "raw")


@dataclass(frozen=True)
class Case:
    """One backup that is measured; ``bitmap`` None: ``sync=full``."""

    name: str
    bitmap: str | None
    payload: int
    """Bytes of data that it copies."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the command."""
        if self.bitmap is None:
            return {"sync": "full"}
        return {"sync": "bitmap", "bitmap": self.bitmap, "bitmap_mode": "never"}


@dataclass(frozen=True)
class Disk:
    """A disk and what is copied of it. ``bits`` maps a bitmap to the pieces that are dirty."""

    name: str
    length: int
    data: list[tuple[int, int]]
    bits: dict[str, list[tuple[int, int]]]
    cases: list[Case]


def run(settings: Settings) -> list[Figure]:
    """Measure on the directory's file system, and on tmpfs if there is one with room."""
    figures: list[Figure] = []
    for label, place in places(settings, 6 * settings.size):
        for disk in disks(settings.size):
            with directory_in(place) as directory:
                here = replace(settings, directory=directory)
                figures += _measure_disk(here, label, disk)
    return figures


def disks(size: int) -> list[Disk]:
    """Return the two disks with ``size`` bytes of data."""
    mibs = [(at, MIB) for at in range(0, size, MIB)]
    half = _some(size, MIB, size // MIB // 2)
    quarter = _some(size, PIECE, size // PIECE // 4)
    pieces = _some(SPREAD * size, PIECE, size // PIECE)
    return [
        Disk(
            "full disk",
            size,
            mibs,
            {"mibs": half, "pieces": quarter},
            [
                Case("full", None, size),
                Case("1 MiB dirty", "mibs", len(half) * MIB),
                Case("64 KiB dirty", "pieces", len(quarter) * PIECE),
            ],
        ),
        Disk(
            "scattered",
            SPREAD * size,
            pieces,
            {"pieces": pieces},
            [Case("full", None, size), Case("64 KiB dirty", "pieces", size)],
        ),
    ]


def _some(length: int, unit: int, number: int) -> list[tuple[int, int]]:
    chosen = random.Random(SEED).sample(range(length // unit), number)
    return sorted((at * unit, unit) for at in chosen)


def _measure_disk(settings: Settings, label: str, disk: Disk) -> list[Figure]:
    settings.report(f"writing the {disk.name} ({label})")
    master = settings.directory / "master.qcow2"
    create(master, disk.length)
    fill(master, disk.data)
    overlays = {}
    for name, pieces in disk.bits.items():
        overlays[name] = settings.directory / f"{name}.qcow2"
        create(overlays[name], disk.length, backing=master)
        fill(overlays[name], pieces)
    figures: list[Figure] = []
    with servers(settings) as running:
        for server in running:
            _prepare(server, settings, master, overlays)
        for path in (*overlays.values(), master):
            path.unlink()
        for target in TARGETS:
            for case in disk.cases:
                title = f"{label}, {disk.name}, {case.name} to {target}"
                settings.report(title)
                measure = _Measure(settings, disk, case, target, title)
                figures += measure.run(running, on_disk=label == "disk")
        figures.append(_responsive(settings, running, disk, f"{label}, {disk.name}"))
        figures += _two_at_once(settings, running, disk, f"{label}, {disk.name}, two at once")
        peak = Figure(f"{label}, {disk.name}, memory at the most", "MiB", more_is_better=False)
        for server in running:
            peak.add(server.name, server.memory("VmHWM") / MIB)
    return [*figures, peak]


def _prepare(server: Server, settings: Settings, master: Path, overlays: dict[str, Path]) -> None:
    """Give the server its own copy of the disk, with the bitmaps."""
    disk = _disk_path(settings, server)
    subprocess.run(["cp", "--reflink=auto", master, disk], check=True)
    server.execute("blockdev-add", **_node("disk", "qcow2", disk))
    for name, overlay in overlays.items():
        server.execute("block-dirty-bitmap-add", node="disk", name=name, granularity=PIECE)
        server.execute("blockdev-add", read_only=True, **_node("pieces", "qcow2", overlay))
        server.run_job(
            "blockdev-backup", device="pieces", target="disk", sync="top", job_id="dirty"
        )
        server.execute("blockdev-del", node_name="pieces")
        server.execute("block-dirty-bitmap-disable", node="disk", name=name)


class _Measure:
    """One case with one kind of target: a first turn unmeasured, then turns that alternate."""

    def __init__(self, settings: Settings, disk: Disk, case: Case, target: str, title: str) -> None:
        self.settings, self.disk, self.case, self.target = settings, disk, case, target
        self.rate = Figure(title, "MiB/s", more_is_better=True)
        self.durable = Figure("... until it is durable", "MiB/s", more_is_better=True)
        self.cost = Figure("... processor time", "s/GiB", more_is_better=False)
        self.unflushed = Figure("... neither flushed", "MiB/s", more_is_better=True)

    def run(self, running: list[Server], *, on_disk: bool) -> list[Figure]:
        """Return the figures."""
        for turn in range(-1, self.settings.turns):
            for server in running:
                self._turn(server, measured=turn >= 0)
        if not on_disk:
            return [self.rate, self.durable, self.cost]
        for _ in range(self.settings.turns):
            for server in running:
                self._unflushed_turn(server)
        return [self.rate, self.durable, self.unflushed, self.cost]

    def _turn(self, server: Server, *, measured: bool) -> None:
        with _target(self.settings, self.disk, self.target) as path:
            server.execute("blockdev-add", **_node("target", self.target, path))
            before = server.cpu_seconds()
            seconds = self._back_up(server)
            closing = server.timed("blockdev-del", node_name="target")
            cpu = server.cpu_seconds() - before
            if measured:
                payload = self.case.payload
                self.rate.add(server.name, payload / MIB / seconds)
                self.durable.add(server.name, payload / MIB / (seconds + closing))
                self.cost.add(server.name, cpu / (payload / 2**30))
            elif self.case.bitmap is None:
                _check(self.settings, server, path, self.target)

    def _unflushed_turn(self, server: Server) -> None:
        with _target(self.settings, self.disk, self.target) as path:
            node = _node("target", self.target, path, cache={"no-flush": True})
            server.execute("blockdev-add", **node)
            self.unflushed.add(server.name, self.case.payload / MIB / self._back_up(server))
            server.execute("blockdev-del", node_name="target")

    def _back_up(self, server: Server) -> float:
        return server.run_job(
            "blockdev-backup",
            device="disk",
            target="target",
            job_id="backup",
            **self.case.arguments(),
        )


def _responsive(settings: Settings, running: list[Server], disk: Disk, title: str) -> Figure:
    """Measure how long a query waits, at the 99th percentile, while a full backup runs."""
    figure = Figure(f"{title}, query in a backup, p99", "ms", more_is_better=False)
    for _ in range(settings.turns):
        for server in running:
            with _target(settings, disk, "qcow2") as path:
                server.execute("blockdev-add", **_node("target", "qcow2", path))
                waits = sorted(
                    server.query_during_job(
                        "blockdev-backup",
                        device="disk",
                        target="target",
                        job_id="backup",
                        sync="full",
                    )
                )
                server.execute("blockdev-del", node_name="target")
                figure.add(server.name, waits[len(waits) * 99 // 100] * 1000)
    return figure


def _two_at_once(settings: Settings, running: list[Server], disk: Disk, title: str) -> list[Figure]:
    """Measure two full backups of two disks in one transaction."""
    rate = Figure(title, "MiB/s", more_is_better=True)
    cost = Figure("... processor time", "s/GiB", more_is_better=False)
    payload = 2 * disk.cases[0].payload
    for server in running:
        path = _disk_path(settings, server)
        copy = path.with_stem(f"{path.stem}-2")
        subprocess.run(["cp", "--reflink=auto", path, copy], check=True)
        server.execute("blockdev-add", read_only=True, **_node("disk2", "qcow2", copy))
    for _ in range(settings.turns):
        for server in running:
            with (
                _target(settings, disk, "qcow2") as one,
                _target(settings, disk, "qcow2", "target2") as two,
            ):
                server.execute("blockdev-add", **_node("target", "qcow2", one))
                server.execute("blockdev-add", **_node("target2", "qcow2", two))
                before = server.cpu_seconds()
                seconds = server.run_job("transaction", jobs=2, actions=_full_backups("", "2"))
                for name in ("target", "target2"):
                    server.execute("blockdev-del", node_name=name)
                cost.add(server.name, (server.cpu_seconds() - before) / (payload / 2**30))
                rate.add(server.name, payload / MIB / seconds)
    for server in running:
        server.execute("blockdev-del", node_name="disk2")
    return [rate, cost]


def _full_backups(*suffixes: str) -> list[dict[str, object]]:
    return [
        {
            "type": "blockdev-backup",
            "data": {
                "device": f"disk{suffix}",
                "target": f"target{suffix}",
                "job-id": f"backup{suffix}",
                "sync": "full",
            },
        }
        for suffix in suffixes
    ]


@contextlib.contextmanager
def _target(settings: Settings, disk: Disk, target: str, name: str = "target") -> Iterator[Path]:
    path = settings.directory / f"{name}.{target}"
    if target == "qcow2":
        create(path, disk.length)
    else:
        with path.open("wb") as file:
            file.truncate(disk.length)
    try:
        yield path
    finally:
        path.unlink()


def _check(settings: Settings, server: Server, target: Path, target_format: str) -> None:
    if not compare(_disk_path(settings, server), target, target_format):
        raise BenchError(f"{server.name}: the backup differs from the disk; no figure counts")


def _disk_path(settings: Settings, server: Server) -> Path:
    return settings.directory / f"disk-{server.name}.qcow2"


def _node(node_name: str, driver: str, path: Path, **more: object) -> dict[str, object]:
    file = {"driver": "file", "filename": str(path), **more}
    return {"driver": driver, "node_name": node_name, "file": file, **more}
