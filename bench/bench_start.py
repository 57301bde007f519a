"""How long a program takes to be ready, and what an image tool costs: processes from start to end.

A start is the time from ``exec`` to the first reply, to ``qmp_capabilities``.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from .harness import (
    BLKXACT,
    QEMU,
    START_SECONDS,
    BenchError,
    Figure,
    Settings,
    encode,
    environment,
)
from .programs import OWN_PROGRAM, Race, Words, run_once

RUNS_PER_TURN: Final = 3
POLL_S: Final = 0.0005
"""Seconds between two tries to connect; both programs wait for as long."""
DISK_BYTES: Final = 1 << 30
VERBS: Final = ("info", "check", "map")
MOST_MS: Final = 120
"""From exec to the first reply."""
MOST_TOOL_MS: Final = 100
"""Processor time of an image tool."""

_SYSTEM: Final = (
    *("-S", "-no-user-config", "-nodefaults", "-display", "none", "-accel", "tcg"),
    *("-machine", "pc", "-m", "64"),
)


def run(settings: Settings) -> list[Figure]:
    """Measure all starts and all tools, QEMU's and ours in turns."""
    image, path = settings.directory / "start.qcow2", settings.directory / "start.sock"
    run_once([*OWN_PROGRAM, "image", "create", "-q", "-f", "qcow2", image, str(DISK_BYTES)])
    turns = settings.turns * RUNS_PER_TURN
    figures = []
    for name, programs in _starts(path, image).items():
        figure = Figure(name, "ms", more_is_better=False, limit=MOST_MS)
        for turn in range(-1, turns):  # the first run warms the page cache
            for server, words in programs.items():
                seconds = _first_reply(words, path)
                if turn >= 0:
                    figure.add(server, seconds * 1000)
        figures.append(figure)
    for verb in VERBS:
        words = ("image", verb, image)
        tools: dict[str, Words] = {BLKXACT: [*OWN_PROGRAM, *words]}
        if shutil.which("qemu-img"):
            tools[QEMU] = ["qemu-img", *words[1:]]
        race = Race(f"image {verb}")
        race.cpu.limit = MOST_TOOL_MS
        race.measure(tools, turns)
        figures += [race.wall, race.cpu]
    return figures


def _starts(path: Path, image: Path) -> dict[str, dict[str, Words]]:
    """Return the command lines of QEMU and of ours, by what they start."""
    chardev = f"socket,id=m,path={path},server=on,wait=off"
    daemon = ["--chardev", chardev, "--monitor", "chardev=m"]
    node = f"driver=qcow2,node-name=disk,file.driver=file,file.filename={image}"
    system = [*_SYSTEM, "-chardev", chardev, "-mon", "chardev=m,mode=control"]
    disk = ["-blockdev", node, "-device", "virtio-blk-pci,drive=disk,id=virtio-disk0"]
    cases = {
        "start, storage daemon": ("storage-daemon", daemon),
        "start, storage daemon, a qcow2 node": ("storage-daemon", [*daemon, "--blockdev", node]),
        "start, system": ("system-x86_64", system),
        "start, system, a qcow2 node and a disk": ("system-x86_64", [*system, *disk]),
    }
    return {name: _programs(program, words) for name, (program, words) in cases.items()}


def _programs(name: str, words: Words) -> dict[str, Words]:
    found: dict[str, Words] = {BLKXACT: [_ours(f"blkxact-{name}"), *words]}
    if shutil.which(f"qemu-{name}"):
        found[QEMU] = [f"qemu-{name}", *words]
    return found


def _ours(program: str) -> str:
    """Return the program that was installed beside this Python."""
    return str(Path(sys.executable).with_name(program))


def _first_reply(words: Words, path: Path) -> float:
    """Return the seconds until the first reply; the program has ended when this returns."""
    path.unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment())
    try:
        with _connected(path, started) as client, client.makefile("rb") as replies:
            replies.readline()
            client.sendall(encode("qmp_capabilities"))
            replies.readline()
            taken = time.perf_counter() - started
            client.sendall(encode("quit"))
            with contextlib.suppress(ConnectionResetError):  # QEMU's way to end
                replies.read()
        if process.wait(START_SECONDS):
            raise BenchError(f"{words[0]} ended with status {process.returncode}")
    finally:
        process.kill()
        process.wait()
    return taken


def _connected(path: Path, started: float) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    while True:
        try:
            client.connect(str(path))
        except OSError as error:
            if time.perf_counter() - started > START_SECONDS:
                client.close()
                raise BenchError(f"{path}: no program listens") from error
            time.sleep(POLL_S)
        else:
            return client
