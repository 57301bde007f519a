"""NBD: fio against an export of a qcow2 disk whose dirty bitmap records, on each file system.

fio runs as one client over a Unix socket. Beside each rate stands the processor time of the server
alone, which other programs on the machine disturb less than the rate.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace

from .harness import BenchError, Figure, Server, Settings, servers
from .images import create, fill
from .places import directory_in, places

MIB = 1 << 20
SIZE = 512 * MIB
ROOM = 4 * SIZE
SECONDS = 2
QUICK_SECONDS = 1
MUST = 1.0
MIXES = (
    ("4 KiB random writes, depth 16", "randwrite", "4k", 16),
    ("4 KiB random writes, depth 1", "randwrite", "4k", 1),
    ("4 KiB random reads, depth 16", "randread", "4k", 16),
    ("4 KiB random reads, depth 1", "randread", "4k", 1),
    *(
        (f"{size} KiB sequential {name}, depth {depth}", kind, f"{size}k", depth)
        for name, kind in (("reads", "read"), ("writes", "write"))
        for size in (64, 128, 256)
        for depth in (1, 16)
    ),
    ("1 MiB sequential writes", "write", "1m", 8),
    ("1 MiB sequential reads", "read", "1m", 8),
)


def run(settings: Settings) -> list[Figure]:
    """Measure every mix in every place, the servers taking turns."""
    if shutil.which("fio") is None:
        settings.report("left out: fio is not there")
        return []
    figures: list[Figure] = []
    for name, place in places(settings, ROOM):
        with directory_in(place) as directory:
            figures += _run(replace(settings, directory=directory), name)
    return figures


def _run(settings: Settings, place: str) -> list[Figure]:
    figures: list[Figure] = []
    with servers(settings) as running:
        uris = {server.name: _export(server, settings) for server in running}
        for name, kind, block, depth in MIXES:
            must = MUST if is_in_issue(kind, block, depth) else None
            if settings.quick and must is None:
                continue
            small = block == "4k"
            factor = 1 if small else _bytes(block) / MIB
            rate = Figure(
                f"NBD, {place}, {name}",
                "1/s" if small else "MiB/s",
                more_is_better=True,
                must=must,
            )
            cost = Figure("... processor time", "us/request", more_is_better=False)
            for _ in range(settings.turns):
                for server in running:
                    before = server.cpu_seconds()
                    requests, rates = _fio(uris[server.name], kind, block, depth, settings)
                    cost.add(server.name, (server.cpu_seconds() - before) / requests * 1e6)
                    rate.add(server.name, rates * factor)
            figures += [rate, cost]
        for server in running:
            server.execute("nbd-server-stop")
    return figures


def _bytes(block: str) -> int:
    """Return what fio's ``256k`` or ``1m`` stands for."""
    return int(block[:-1]) << {"k": 10, "m": 20}[block[-1]]


def _export(server: Server, settings: Settings) -> str:
    """Give the server a full disk with a bitmap; return the URI of its export."""
    disk = settings.directory / f"nbd-{server.name}.qcow2"
    create(disk, SIZE)
    fill(disk, ((at, MIB) for at in range(0, SIZE, MIB)))
    file = {"driver": "file", "filename": str(disk)}
    server.execute("blockdev-add", driver="qcow2", node_name="nbd", file=file)
    server.execute("block-dirty-bitmap-add", node="nbd", name="b0")
    path = settings.directory / f"{server.name}.nbd"
    server.execute("nbd-server-start", addr={"type": "unix", "data": {"path": str(path)}})
    server.execute("block-export-add", type="nbd", id="nbd", node_name="nbd", writable=True)
    return f"nbd+unix:///nbd?socket={path}"


def is_in_issue(kind: str, block: str, depth: int) -> bool:
    """Return whether issue 13 says what a mix must reach."""
    return block == "256k" or (block in {"64k", "128k"} and (kind, depth) == ("read", 1))


def _fio(uri: str, kind: str, block: str, depth: int, settings: Settings) -> tuple[float, float]:
    """Return how many requests were done, and how many in a second."""
    command = fio_command(uri, kind, block, depth, settings)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"fio: {done.stderr.strip() or done.stdout.strip()}")
    return fio_rates(done.stdout, kind)


def fio_command(uri: str, kind: str, block: str, depth: int, settings: Settings) -> list[str]:
    """Return the words that let fio use an export for some seconds."""
    words = [f"--uri={uri}", f"--rw={kind}", f"--bs={block}", f"--iodepth={depth}"]
    seconds = QUICK_SECONDS if settings.quick else SECONDS
    time = [f"--size={SIZE}", "--time_based", f"--runtime={seconds}"]
    output = [f"--aux-path={settings.directory}", "--output-format=json"]
    return ["fio", "--name=bench", "--ioengine=nbd", *words, *time, *output]


def fio_rates(output: str, kind: str) -> tuple[float, float]:
    """Return how many requests fio has done, and how many in a second."""
    told = json.loads(output[output.index("{") :])["jobs"][0]
    side = told["read" if kind.endswith("read") else "write"]
    return max(side["total_ios"], 1), side["iops"]
