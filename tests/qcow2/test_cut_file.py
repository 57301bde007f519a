"""An image whose file ``raw`` cuts short with ``size``."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from tests.emulator import MIB, Emulator

CUT = 2 * MIB


def options(**piece: int) -> dict[str, Any]:
    file = {"driver": "file", "filename": "/disk.qcow2"}
    return {"driver": "qcow2", "node-name": "d", "file": {"driver": "raw", "file": file, **piece}}


async def test_a_write_past_the_cut_finds_no_room_and_works_when_the_cut_is_gone() -> None:
    emulator = Emulator()
    await emulator.create("/disk.qcow2", size=5 * MIB)
    await emulator.open("d", "/disk.qcow2")
    await emulator.qemu_io("d", f"write -P 1 0 {5 * MIB}")
    await emulator.execute("blockdev-del", node_name="d")
    await emulator.execute_wire("blockdev-add", options(size=CUT))
    backend = emulator.plug("d")
    with pytest.raises(OSError, match="No space left") as caught:
        await backend.pwrite(4 * MIB, b"\2" * MIB)
    assert caught.value.errno == errno.ENOSPC
    assert not emulator.named("BLOCK_IMAGE_CORRUPTED")
    await emulator.execute("blockdev-reopen", options=[options()])
    await backend.pwrite(4 * MIB, b"\2" * MIB)
    assert await backend.pread(4 * MIB, MIB) == b"\2" * MIB
    assert await backend.pread(3 * MIB, MIB) == b"\1" * MIB


async def test_old_bytes_past_the_cut_do_not_show_in_new_clusters() -> None:
    emulator = Emulator()
    await emulator.create("/disk.qcow2", size=5 * MIB)
    keeping = {"driver": "file", "filename": "/disk.qcow2", "discard": "ignore"}
    uncut = {"driver": "qcow2", "node-name": "d", "discard": "unmap", "file": keeping}
    await emulator.execute_wire("blockdev-add", uncut)
    await emulator.qemu_io("d", f"write -P 1 0 {4 * MIB}")
    await emulator.qemu_io("d", f"discard {3 * MIB} {MIB}")
    await emulator.execute("blockdev-del", node_name="d")
    await emulator.execute_wire("blockdev-add", options(size=CUT))
    backend = emulator.plug("d")
    await emulator.execute("blockdev-reopen", options=[options()])
    await backend.pwrite(4 * MIB + 512, b"\2" * 512)
    assert await backend.pread(4 * MIB, 1536) == bytes(512) + b"\2" * 512 + bytes(512)
