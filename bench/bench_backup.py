"""Backup jobs from qcow2 to qcow2: a full one, and an incremental one of scattered 64 KiB pieces.

The dirty bits are made by the servers themselves, in the same way in both: an overlay with the
scattered pieces is backed up (``sync=top``) onto the disk whose bitmap records. The bitmap is kept
(``bitmap-mode=never``), so that every turn copies the same.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from .harness import BenchError, Figure, Server, Settings, servers
from .images import compare, create, fill

MIB = 1 << 20
PIECE = 65536
SEED = 20150527
SCATTERED_SHARE = 8
"""One piece in so many is dirty."""


def run(settings: Settings) -> list[Figure]:
    """Measure throughput and processor time of both kinds."""
    source = settings.directory / "source.qcow2"
    overlay = settings.directory / "overlay.qcow2"
    pieces = _scattered(settings.size)
    settings.tell(f"writing {settings.size // MIB} MiB and {len(pieces)} pieces for the backups")
    create(source, settings.size)
    fill(source, ((at, MIB) for at in range(0, settings.size, MIB)))
    create(overlay, settings.size, backing=source)
    fill(overlay, ((at, PIECE) for at in pieces))
    figures: list[Figure] = []
    with servers(settings) as running:
        for server in running:
            _prepare(server, source, overlay)
        figures += _measure(settings, running, "full", settings.size, {"sync": "full"})
        incremental = {"sync": "bitmap", "bitmap": "b0", "bitmap_mode": "never"}
        figures += _measure(settings, running, "64 KiB scattered", len(pieces) * PIECE, incremental)
        peak = Figure("resident memory, at the most in backups", "MiB", more_is_better=False)
        for server in running:
            peak.add(server.name, server.memory("VmHWM") / MIB)
    return [*figures, peak]


def _scattered(size: int) -> list[int]:
    chosen = random.Random(SEED).sample(range(size // PIECE), size // PIECE // SCATTERED_SHARE)
    return sorted(at * PIECE for at in chosen)


def _prepare(server: Server, source: Path, overlay: Path) -> None:
    """Give the server its own copy of the disk, with a bitmap that has the pieces dirty."""
    disk = source.with_name(f"disk-{server.name}.qcow2")
    subprocess.run(["cp", "--reflink=auto", source, disk], check=True)
    server.execute("blockdev-add", **_qcow2("disk", disk))
    server.execute("block-dirty-bitmap-add", node="disk", name="b0", granularity=PIECE)
    server.execute("blockdev-add", read_only=True, **_qcow2("pieces", overlay))
    server.run_job("blockdev-backup", device="pieces", target="disk", sync="top", job_id="dirty")
    server.execute("blockdev-del", node_name="pieces")


def _measure(
    settings: Settings, running: list[Server], name: str, payload: int, sync: dict[str, str]
) -> list[Figure]:
    rate = Figure(f"backup, {name}", "MiB/s", more_is_better=True)
    cost = Figure("... processor time", "s/GiB", more_is_better=False)
    for turn in range(settings.turns):
        for server in running:
            target = settings.directory / f"target-{server.name}.qcow2"
            create(target, settings.size)
            server.execute("blockdev-add", **_qcow2("target", target))
            before = server.cpu_seconds()
            seconds = server.run_job(
                "blockdev-backup", device="disk", target="target", job_id="backup", **sync
            )
            cost.add(server.name, (server.cpu_seconds() - before) / (payload / 2**30))
            rate.add(server.name, payload / MIB / seconds)
            server.execute("blockdev-del", node_name="target")
            if turn == 0 and sync["sync"] == "full":
                _check(server, target)
            target.unlink()
    return [rate, cost]


def _check(server: Server, target: Path) -> None:
    disk = target.with_name(f"disk-{server.name}.qcow2")
    if not compare(disk, target):
        raise BenchError(f"{server.name}: the backup differs from the disk; no figure counts")


def _qcow2(node_name: str, path: Path) -> dict[str, object]:
    file = {"driver": "file", "filename": str(path)}
    return {"driver": "qcow2", "node_name": node_name, "file": file}
