"""Scale: 1,000 emulators in one process; one transaction over 1,000 disks with 1,000 jobs.

QEMU has one emulator a process, so beside the first stands what one more storage daemon takes of
memory that it shares with nobody (``Private_Clean`` and ``Private_Dirty``).
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from .harness import BLKXACT, QEMU, BenchError, Figure, Server, Settings, encode, servers
from .images import create

EMULATORS = 1000
MOST_KIB = 300
"""Of memory for each of them."""
DISKS = 1000
DISK_SIZE = 1 << 20
DAEMONS = 10
"""How many of QEMU's daemons are measured."""
KIB = 1024


def run(settings: Settings) -> list[Figure]:
    """Measure both."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings.report(f"making {2 * max(EMULATORS, DISKS)} images")
    first = settings.directory / "0.qcow2"
    create(first, DISK_SIZE)
    for number in range(1, max(EMULATORS, DISKS) + 1):
        for name in (f"{number}.qcow2", f"t{number}.qcow2"):
            (settings.directory / name).write_bytes(first.read_bytes())
    return [*_emulators(settings), *_transaction(settings)]


def _emulators(settings: Settings) -> list[Figure]:
    title = "an emulator with disk, bitmap, monitor"
    memory = Figure(title, "KiB", more_is_better=False, limit=MOST_KIB)
    seconds = Figure("... until it answers", "ms", more_is_better=False)
    command = [sys.executable, "-m", "bench.emulators", str(settings.directory), str(EMULATORS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if len(words) != 3:
            raise BenchError("the process with many emulators ended early")
        memory.add(BLKXACT, (int(words[1]) - int(words[0])) / EMULATORS / KIB)
        seconds.add(BLKXACT, float(words[2]) / EMULATORS * 1000)
        process.communicate()
    if QEMU in settings.servers:
        _daemons(settings, memory, seconds)
    return [memory, seconds]


def _daemons(settings: Settings, memory: Figure, seconds: Figure) -> None:
    """Measure what one daemon more takes."""
    with contextlib.ExitStack() as stack:
        for number in range(1, DAEMONS + 1):
            directory = settings.directory / f"daemon{number}"
            directory.mkdir()
            started = time.perf_counter()
            server = stack.enter_context(Server(QEMU, directory))
            server.execute("blockdev-add", **_qcow2("disk", settings.directory, str(number)))
            server.execute("block-dirty-bitmap-add", node="disk", name="bitmap")
            seconds.add(QEMU, (time.perf_counter() - started) * 1000)
            memory.add(QEMU, server.private_memory() / KIB)


def _transaction(settings: Settings) -> list[Figure]:
    reply = Figure(f"transaction of {DISKS} backups, reply", "ms", more_is_better=False)
    over = Figure("... until the last job is over", "ms", more_is_better=False)
    cost = Figure("... processor time", "ms", more_is_better=False)
    memory = Figure("... memory per job", "KiB", more_is_better=False)
    for _ in range(min(settings.turns, 3)):
        with servers(settings) as running:
            for server in running:
                _prepare(server, settings.directory)
                idle, cpu = server.memory(), server.cpu_seconds()
                times = _back_up(server)
                reply.add(server.name, times[0] * 1000)
                over.add(server.name, times[1] * 1000)
                cost.add(server.name, (server.cpu_seconds() - cpu) * 1000)
                memory.add(server.name, (server.memory("VmHWM") - idle) / DISKS / KIB)
                server.execute("quit")
    return [reply, over, cost, memory]


def _prepare(server: Server, directory: Path) -> None:
    for number in range(1, DISKS + 1):
        server.execute("blockdev-add", **_qcow2(f"disk{number}", directory, str(number)))
        server.execute("blockdev-add", **_qcow2(f"target{number}", directory, f"t{number}"))


def _back_up(server: Server) -> tuple[float, float]:
    """Return the seconds until the reply and until all jobs are over."""
    actions = []
    for number in range(1, DISKS + 1):
        disk = f"disk{number}"
        backup = {"device": disk, "target": f"target{number}", "job-id": disk, "sync": "full"}
        actions.append({"type": "block-dirty-bitmap-add", "data": {"node": disk, "name": "bitmap"}})
        actions.append({"type": "blockdev-backup", "data": backup})
    message = encode("transaction", {"actions": actions})
    started = time.perf_counter()
    replied, completed = 0.0, 0
    server.send(message)
    while completed < DISKS or not replied:
        answer = json.loads(server.receive())
        if "error" in answer or "error" in answer.get("data", {}):
            raise BenchError(f"{server.name}: {answer}")
        if "return" in answer:
            replied = time.perf_counter() - started
        completed += answer.get("event") == "BLOCK_JOB_COMPLETED"
    return replied, time.perf_counter() - started


def _qcow2(node_name: str, directory: Path, image: str) -> dict[str, object]:
    file = {"driver": "file", "filename": str(directory / f"{image}.qcow2")}
    return {"driver": "qcow2", "node_name": node_name, "file": file}
