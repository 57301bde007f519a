"""The same lines to the human monitors of blkxact and of QEMU."""

from __future__ import annotations

from tests.emulator import Emulator
from tests.qapi.oracle import ask_qemu


async def assert_answered_as_by_qemu(*lines: str) -> None:
    """Send lines to an emulator without disks."""
    emulator = Emulator()
    theirs = ask_qemu([("human-monitor-command", {"command-line": line}) for line in lines])
    for line, reply in zip(lines, theirs, strict=True):
        assert await emulator.hmp(line) == reply["return"], line
    await emulator.layer.shutdown()
