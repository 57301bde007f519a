"""What is said of a disk whose last writes failed: once, in QEMU's words."""

from __future__ import annotations

import errno

import pytest

from blkxact.testing.faults import Fault

from .conftest import Emulator


async def test_tables_that_cannot_be_written_back_are_reported(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    await emulator.create_disk("a")
    await emulator.add_disk("a")
    emulator.plug("a")
    await emulator.qemu_io("guest-a", "write 0 64k")
    emulator.storage.faults.add(Fault("storage.pwrite", errno.EIO, times=None))
    await emulator.layer.shutdown()
    assert caplog.messages == [
        "Failed to flush the L2 table cache: Input/output error",
        "Failed to flush the refcount block cache: Input/output error",
    ]


async def test_a_disk_with_nothing_left_to_write_says_nothing(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    await emulator.create_disk("a")
    await emulator.add_disk("a")
    emulator.storage.faults.add(Fault("storage.pwrite", errno.EIO))
    await emulator.layer.shutdown()
    assert caplog.messages == []
