"""Images for the bench: made by QEMU's tools where they are, else by blkxact's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from .harness import BLKXACT, BenchError, Server

COMMANDS_AT_ONCE = 500
"""How many requests one run of qemu-io gets on its command line."""

_OWN_TOOL = [sys.executable, "-m", "blkxact", "image"]


def create(path: Path, size: int, *, backing: Path | None = None) -> None:
    """Make a qcow2 image of ``size`` bytes."""
    words = ["create", "-q", "-f", "qcow2"]
    if backing is not None:
        words += ["-b", str(backing), "-F", "qcow2"]
    _run([*_tool(), *words, str(path), str(size)])


def fill(path: Path, requests: Iterable[tuple[int, int]], *, first: int = 0) -> None:
    """Write bytes that are not zero to each ``(offset, length)``; ``first`` makes them others."""
    commands = [
        f"write -q -P {1 + number % 255} {offset} {length}"
        for number, (offset, length) in enumerate(requests, first)
    ]
    if shutil.which("qemu-io") is None:
        _fill_with_blkxact(path, commands)
        return
    for start in range(0, len(commands), COMMANDS_AT_ONCE):
        words = [word for line in commands[start:][:COMMANDS_AT_ONCE] for word in ("-c", line)]
        _run(["qemu-io", "-f", "qcow2", "-t", "writeback", *words, str(path)])


def _fill_with_blkxact(path: Path, commands: list[str]) -> None:
    with Server(BLKXACT, path.parent) as server:
        file = {"driver": "file", "filename": str(path)}
        server.execute("blockdev-add", driver="qcow2", node_name="fill", file=file)
        for command in commands:
            line = f'qemu-io fill "{command}"'
            answer = server.execute("human-monitor-command", command_line=line)
            if answer:
                raise BenchError(f"{command}: {answer}")


def compare(one: Path, other: Path, other_format: str = "qcow2", *, must: bool = False) -> bool:
    """Return whether a qcow2 image and another hold the same; locks are not minded.

    ``must``: raise ``BenchError`` if they do not.
    """
    words = ["compare", "-q", "-U", "-f", "qcow2", "-F", other_format, str(one), str(other)]
    same = subprocess.run([*_tool(), *words], check=False).returncode == 0
    if must and not same:
        raise BenchError(f"{other.name} differs from {one.name}; no figure counts")
    return same


def _tool() -> list[str]:
    return ["qemu-img"] if shutil.which("qemu-img") else _OWN_TOOL


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
