"""What is large: a chain of 200 images, and an incremental backup of a disk of 16 TiB.

Each image of the chain holds one piece of 64 KiB. The large disk is a qcow2 image with a stored
bitmap of which 1 % is dirty, in runs of 4 MiB; it holds nothing and the target is ``null-co``, so
what is measured is finding and planning what to copy, which is all that grows with the disk.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from .bench_bitmap import SIZE as LARGE
from .bench_bitmap import make_image
from .bench_granules import scattered
from .harness import BLKXACT, QEMU, Figure, Server, Settings, servers
from .images import compare, create, fill
from .programs import MIB, OWN_PROGRAM, Race, Words

CHAIN = 200
CHAIN_DISK = 64 * MIB
PIECE = 65536
RUN = 64
LONG_TURNS = 1
"""Incremental backups of the large disk: one takes QEMU minutes."""


def run(settings: Settings) -> list[Figure]:
    """Measure both."""
    return [*_chain(settings), *_incremental(settings)]


def _chain(settings: Settings) -> list[Figure]:
    settings.report(f"making a chain of {CHAIN}")
    top = None
    for level in range(CHAIN):
        path = settings.directory / f"level{level}.qcow2"
        create(path, CHAIN_DISK, backing=top)
        fill(path, [(level * PIECE, PIECE)], first=level)
        top = path
    assert top is not None
    return [*_open_chain(settings, top), *_convert_chain(settings, top)]


def _open_chain(settings: Settings, top: Path) -> list[Figure]:
    wall = Figure(f"a chain of {CHAIN}: blockdev-add", "ms", more_is_better=False)
    cpu = Figure("... processor time", "ms", more_is_better=False)
    memory = Figure("... memory", "MiB", more_is_better=False)
    for _ in range(settings.turns):
        with servers(settings) as running:
            for server in running:
                idle, before = server.memory(), server.run_seconds()
                file = {"driver": "file", "filename": str(top)}
                arguments = {"driver": "qcow2", "node_name": "disk", "read_only": True}
                wall.add(server.name, 1000 * server.timed("blockdev-add", file=file, **arguments))
                cpu.add(server.name, 1000 * (server.run_seconds() - before))
                memory.add(server.name, (server.memory() - idle) / MIB)
    return [wall, cpu, memory]


def _convert_chain(settings: Settings, top: Path) -> list[Figure]:
    targets = {name: settings.directory / f"{name}.out" for name in (BLKXACT, QEMU)}
    words: list[str | Path] = ["convert", "-f", "qcow2", "-O", "qcow2", top]
    programs: dict[str, Words] = {
        BLKXACT: [*OWN_PROGRAM, "image", *words, targets[BLKXACT]],
        QEMU: ["qemu-img", *words, targets[QEMU]],
    }
    return Race(f"a chain of {CHAIN}: convert to one").measure(
        {name: programs[name] for name in settings.servers},
        settings.turns,
        prepare=lambda name: targets[name].unlink(missing_ok=True),
        check=lambda name: compare(top, targets[name], must=True),
    )


def _incremental(settings: Settings) -> list[Figure]:
    title = f"16 TiB, 1 % dirty in runs of {RUN * PIECE // MIB} MiB, incremental backup"
    settings.report(title)
    wall = Figure(title, "s", more_is_better=False)
    cpu = Figure("... processor time", "s", more_is_better=False)
    memory = Figure("... memory at the most", "MiB", more_is_better=False)
    with servers(settings) as running:
        for server in running:
            path = settings.directory / f"large-{server.name}.qcow2"
            asyncio.run(make_image(path, scattered(LARGE, PIECE, RUN)))
            file = {"driver": "file", "filename": str(path)}
            server.execute("blockdev-add", driver="qcow2", node_name="disk", file=file)
            zeroes = {"size": LARGE, "read_zeroes": True}
            server.execute("blockdev-add", driver="null-co", node_name="target", **zeroes)
        for _ in range(min(settings.turns, LONG_TURNS)):
            for server in running:
                before = server.cpu_seconds()
                wall.add(server.name, _back_up(server))
                cpu.add(server.name, server.cpu_seconds() - before)
        for server in running:
            memory.add(server.name, server.memory("VmHWM") / MIB)
    return [wall, cpu, memory]


def _back_up(server: Server) -> float:
    return server.run_job(
        "blockdev-backup",
        device="disk",
        target="target",
        job_id="backup",
        sync="bitmap",
        bitmap="b",
        bitmap_mode="never",
    )
