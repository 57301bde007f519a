"""How long a program takes to be ready, and what an image tool costs: processes from start to end.

A start is the time from ``exec`` to the first reply, to ``qmp_capabilities``. A tool's figure is
the processor time of the whole process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from .harness import BLKXACT, QEMU, START_SECONDS, BenchError, Figure, Settings, encode

RUNS_PER_TURN: Final = 3
POLL_S: Final = 0.0005
"""Seconds between two tries to connect; both programs wait for as long."""
DISK_BYTES: Final = 1 << 30
VERBS: Final = ("info", "check", "map")

_SYSTEM: Final = (
    *("-S", "-no-user-config", "-nodefaults", "-display", "none", "-accel", "tcg"),
    *("-machine", "pc", "-m", "64"),
)
Command = list[str]


def run(settings: Settings) -> list[Figure]:
    """Measure all starts and all tools, QEMU's and ours in turns."""
    image = str(settings.directory / "start.qcow2")
    create = [_ours("blkxact"), "image", "create", "-q", "-f", "qcow2", image, str(DISK_BYTES)]
    if subprocess.run(create, check=False).returncode:
        raise BenchError("the image cannot be made")
    path = str(settings.directory / "start.sock")
    figures = []
    for name, words in _starts(path, image).items():
        figure = Figure(name, "ms", more_is_better=False)
        for server, command in _both(*words, settings.turns):
            figure.add(server, _first_reply(command, path) * 1000)
        figures.append(figure)
    for verb in VERBS:
        figure = Figure(f"processor time of image {verb}", "ms", more_is_better=False)
        tools = (["qemu-img", verb, image], [_ours("blkxact"), "image", verb, image])
        for server, command in _both(*tools, settings.turns):
            figure.add(server, _processor_time(command) * 1000)
        figures.append(figure)
    return figures


def _starts(path: str, image: str) -> dict[str, tuple[Command, Command]]:
    """Return the command lines of QEMU and of ours, by what they start."""
    chardev = f"socket,id=m,path={path},server=on,wait=off"
    daemon = ["--chardev", chardev, "--monitor", "chardev=m"]
    node = f"driver=qcow2,node-name=disk,file.driver=file,file.filename={image}"
    system = [*_SYSTEM, "-chardev", chardev, "-mon", "chardev=m,mode=control"]
    disk = ["-blockdev", _json_node(image), "-device", "virtio-blk-pci,drive=disk,id=virtio-disk0"]
    cases = {
        "start, storage daemon": ("storage-daemon", daemon),
        "start, storage daemon, a qcow2 node": ("storage-daemon", [*daemon, "--blockdev", node]),
        "start, system": ("system-x86_64", system),
        "start, system, a qcow2 node and a disk": ("system-x86_64", [*system, *disk]),
    }
    return {
        name: ([f"qemu-{program}", *words], [_ours(f"blkxact-{program}"), *words])
        for name, (program, words) in cases.items()
    }


def _json_node(image: str) -> str:
    file = {"driver": "file", "filename": image, "auto-read-only": True, "discard": "unmap"}
    return json.dumps({"driver": "qcow2", "node-name": "disk", "file": file})


def _ours(program: str) -> str:
    """Return the program that was installed beside this Python."""
    return str(Path(sys.executable).with_name(program))


def _both(theirs: Command, ours: Command, turns: int) -> list[tuple[str, Command]]:
    """Return what is run, in turns; the first of each warms the page cache and is not counted."""
    commands = [(BLKXACT, ours)]
    if shutil.which(theirs[0]):
        commands.insert(0, (QEMU, theirs))
    for _, command in commands:
        subprocess.run([command[0], "--version"], stdout=subprocess.DEVNULL, check=True)
    return commands * (turns * RUNS_PER_TURN)


def _first_reply(command: Command, path: str) -> float:
    """Return the seconds until the first reply; the program has ended by then."""
    Path(path).unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        with _connected(path, started) as client, client.makefile("rb") as replies:
            replies.readline()
            client.sendall(encode("qmp_capabilities"))
            replies.readline()
            taken = time.perf_counter() - started
            client.sendall(encode("quit"))
            replies.read()
        if process.wait(START_SECONDS):
            raise BenchError(f"{command[0]} ended with status {process.returncode}")
    finally:
        process.kill()
        process.wait()
    return taken


def _connected(path: str, started: float) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    while True:
        try:
            client.connect(path)
        except OSError as error:
            if time.perf_counter() - started > START_SECONDS:
                client.close()
                raise BenchError(f"{path}: no program listens") from error
            time.sleep(POLL_S)
        else:
            return client


def _processor_time(command: Command) -> float:
    """Return the seconds of processor time that a program takes, in both modes."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        output = [(os.POSIX_SPAWN_DUP2, null, 1)]
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=output)
        _, status, usage = os.wait4(pid, 0)
    finally:
        os.close(null)
    if status:
        raise BenchError(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime
