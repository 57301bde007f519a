"""Dirty bitmaps of a 16 TiB disk over QMP, beside QEMU: merged, digested, cleared, loaded, stored.

Each disk is a real qcow2 image, whose bitmap is written by blkxact and then loaded and stored again
by both. 1 % of it is dirty, in random granules or in runs of 64. The figures are processor time,
with that of the system: these commands wait for nothing else. What the representation itself costs,
without commands and files, is measured by ``bench_granules``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from blkxact.block_layer import BlockLayer
from blkxact.commands import Dispatcher
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.events import EventSink
from blkxact.storage.os_file import OsStorage

from .bench_granules import Runs, scattered
from .harness import Figure, Server, Settings, servers
from .images import create
from .places import directory_in, places

SIZE = 16 << 40
GRANULARITY = 64 << 10
COARSE = 1 << 20
IMAGE_BYTES = 64 << 20
"""What an image takes, with its bitmap stored twice; and its copies, one for each server."""
PATTERNS = {"random": 1, "runs of 64": 64}
"""Granules in each dirty run."""
STEPS = {
    "load": "load (blockdev-add)",
    "merge": "merge",
    "coarse": "merge to 16 x",
    "count": "count (a query)",
    "sha256": "sha256",
    "clear": "clear",
    "store": "store (blockdev-del)",
}


def run(settings: Settings) -> list[Figure]:
    """Measure on the directory's file system, and on tmpfs if there is one with room."""
    figures: list[Figure] = []
    for label, place in places(settings, 3 * IMAGE_BYTES):
        for pattern, length in PATTERNS.items():
            with directory_in(place) as directory:
                here = replace(settings, directory=directory)
                figures += _measure(here, f"{label}, {pattern}", length)
    return figures


def _measure(settings: Settings, label: str, length: int) -> list[Figure]:
    made = {
        key: Figure(f"bitmap {label}: {name}", "ms", more_is_better=False)
        for key, name in STEPS.items()
    }
    memory = Figure(f"bitmap {label}: memory", "MiB", more_is_better=False)
    runs = scattered(SIZE, GRANULARITY, length)
    with servers(settings) as running:
        for server in running:
            asyncio.run(make_image(_image(settings, server), runs))
        for turn in range(settings.turns):
            for server in running:
                before = server.private_memory()
                for key, seconds in _use(server, _image(settings, server)):
                    made[key].add(server.name, seconds * 1000)
                    if key == "load" and not turn:  # what is let go is not given back
                        memory.add(server.name, (server.private_memory() - before) / 2**20)
    return [*made.values(), memory]


def _image(settings: Settings, server: Server) -> Path:
    return settings.directory / f"{server.name}.qcow2"


async def make_image(path: Path, runs: Runs) -> None:
    """Make a disk with a bitmap in which ``runs`` are dirty."""
    create(path, SIZE)
    clock = SystemClock()
    layer = BlockLayer(OsStorage(), clock, EventSink(clock), rng=random.Random(0))
    execute = Dispatcher(layer).execute
    file = {"driver": "file", "filename": str(path)}
    await execute("blockdev-add", {"driver": "qcow2", "node-name": "disk", "file": file})
    bitmap = {"node": "disk", "name": "b", "granularity": GRANULARITY, "persistent": True}
    await execute("block-dirty-bitmap-add", bitmap)
    marked = layer.find_bitmap("disk", "b")[1]
    for offset, length in runs:
        marked.mark(offset, length)
    await layer.shutdown()


def _use(server: Server, path: Path) -> Iterator[tuple[str, float]]:
    """Yield the seconds of processor time that each of ``STEPS`` takes."""

    def timed(command: str, **arguments: Any) -> float:
        before = server.run_seconds()
        server.execute(command, **arguments)
        return server.run_seconds() - before

    file = {"driver": "file", "filename": str(path)}
    yield "load", timed("blockdev-add", driver="qcow2", node_name="disk", file=file)
    for name, granularity in (("same", GRANULARITY), ("coarse", COARSE)):
        bitmap = {"name": name, "granularity": granularity, "disabled": True}
        server.execute("block-dirty-bitmap-add", node="disk", **bitmap)
    for key, target in (("merge", "same"), ("coarse", "coarse")):
        yield key, timed("block-dirty-bitmap-merge", node="disk", target=target, bitmaps=["b"])
    yield "count", timed("query-named-block-nodes", flat=True)
    yield "sha256", timed("x-debug-block-dirty-bitmap-sha256", node="disk", name="b")
    yield "clear", timed("block-dirty-bitmap-clear", node="disk", name="same")
    yield "store", timed("blockdev-del", node_name="disk")
