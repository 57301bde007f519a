"""Reads of a disk that is not cached: how long a monitor waits meanwhile.

fio reads through NBD while a monitor asks small questions. The disk is a qcow2 image whose pages
are dropped from the cache over and over, and one on a FUSE file system that takes ``DELAY_MS`` for
each read (nbdfuse, nbdkit). The longest wait for an answer shows whether reads hold up the server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .bench_nbd import fio_command, fio_rates
from .harness import BenchError, Figure, Server, Settings, encode, servers
from .images import create, fill

MIB = 1 << 20
SIZE = 512 * MIB
DELAY_MS = 20
DEPTH = 4
BLOCKS = ("4k", "256k")
PAUSE_S = 0.001
"""Seconds between two questions."""
DROP_EVERY = 20
"""Questions between two times that the cache is dropped."""
START_S = 10.0
MOST_MS = 2.0
"""For which reads of a cold disk may hold up the loop; what a question waits is a little more."""
TOOLS = ("nbdfuse", "nbdkit")


def run(settings: Settings) -> list[Figure]:
    """Measure both media."""
    if shutil.which("fio") is None:
        settings.report("left out: fio is not there")
        return []
    figures: list[Figure] = []
    with servers(settings) as running, contextlib.ExitStack() as stack:
        images = {server.name: _image(server, settings) for server in running}
        figures += _measure("cold disk", running, settings, images)
        if any(shutil.which(tool) is None for tool in TOOLS):
            settings.report(f"left out: one of {', '.join(TOOLS)} is not there")
            return figures
        mounted = {
            name: stack.enter_context(_slow_file(image, settings.directory / f"{name}.fuse"))
            for name, image in images.items()
        }
        return figures + _measure(f"FUSE, {DELAY_MS} ms", running, settings, mounted)


def _image(server: Server, settings: Settings) -> Path:
    image = settings.directory / f"cold-{server.name}.qcow2"
    create(image, SIZE)
    fill(image, ((at, MIB) for at in range(0, SIZE, MIB)))
    subprocess.run(["sync", str(image)], check=True)  # only clean pages can be dropped
    return image


@contextlib.contextmanager
def _slow_file(image: Path, directory: Path) -> Iterator[Path]:
    """Show ``image`` on a file system that takes its time."""
    directory.mkdir()
    file = directory / "image"
    kit = ["nbdkit", "-s", "--filter=delay", "file", str(image), f"delay-read={DELAY_MS}ms"]
    fuse = subprocess.Popen(["nbdfuse", str(file), "--command", *kit])
    try:
        deadline = time.monotonic() + START_S
        while not file.exists():
            if fuse.poll() is not None or time.monotonic() > deadline:
                raise BenchError("nbdfuse did not start")
            time.sleep(0.01)
        yield file
    finally:
        fuse.terminate()  # it unmounts
        fuse.wait()


def _measure(
    medium: str, running: list[Server], settings: Settings, images: dict[str, Path]
) -> list[Figure]:
    figures = []
    for server in running:
        file = {"driver": "file", "filename": str(images[server.name])}
        server.execute("blockdev-add", driver="qcow2", node_name="cold", read_only=True, file=file)
        path = settings.directory / f"{server.name}.cold"
        server.execute("nbd-server-start", addr={"type": "unix", "data": {"path": str(path)}})
        server.execute("block-export-add", type="nbd", id="cold", node_name="cold")
    for block in BLOCKS:
        name = f"reads of {block}, {medium}"
        rate = Figure(name, "1/s", more_is_better=True)
        usual = Figure("... a question waits, 99 %", "ms", more_is_better=False)
        longest = Figure("... at the most", "ms", more_is_better=False, limit=MOST_MS)
        for _ in range(settings.turns):
            for server in running:
                uri = f"nbd+unix:///cold?socket={settings.directory / f'{server.name}.cold'}"
                reads, waits = _ask_during_reads(
                    server,
                    images[server.name],
                    fio_command(uri, "randread", block, DEPTH, settings),
                )
                rate.add(server.name, reads)
                waits.sort()
                usual.add(server.name, waits[len(waits) * 99 // 100] * 1000)
                longest.add(server.name, waits[-1] * 1000)
        figures += [rate, usual, longest]
    for server in running:
        server.execute("nbd-server-stop")
        server.execute("blockdev-del", node_name="cold")
    return figures


def _ask_during_reads(server: Server, image: Path, command: list[str]) -> tuple[float, list[float]]:
    """Return the rate of the reads, and the seconds that each question waited."""
    question = encode("query-version")
    waits: list[float] = []
    disk = os.open(image, os.O_RDONLY)
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reading:
            while reading.poll() is None:
                if len(waits) % DROP_EVERY == 0:
                    os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_DONTNEED)
                asked = time.perf_counter()
                server.repeat(question, 1)
                waits.append(time.perf_counter() - asked)
                time.sleep(PAUSE_S)
            assert reading.stdout is not None
            return fio_rates(reading.stdout.read(), "randread")[1], waits
    finally:
        os.close(disk)
