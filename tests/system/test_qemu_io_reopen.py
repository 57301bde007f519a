"""``qemu-io``'s ``reopen``: some options change, the others stay."""

from __future__ import annotations

import pytest

from .conftest import Emulator

NAME = "guest-disk"


@pytest.fixture
async def emulator(emulator: Emulator) -> Emulator:
    await emulator.create_disk("base")
    await emulator.create_disk("disk")
    backing = {
        "driver": "qcow2",
        "node-name": "base",
        "file": {"driver": "file", "filename": "/base.qcow2"},
    }
    await emulator.add_disk("disk", backing=backing, discard="unmap")
    emulator.plug("disk")
    return emulator


async def test_options_of_the_backing_file_can_be_changed(emulator: Emulator) -> None:
    assert await emulator.qemu_io(NAME, "reopen -o backing.detect-zeroes=on") == ""
    disk, base = emulator.layer.find_node("disk"), emulator.layer.find_node("base")
    assert (disk.detect_zeroes, base.detect_zeroes) == ("off", "on")
    assert disk.discard


async def test_a_disk_becomes_read_only_and_writable_again(emulator: Emulator) -> None:
    await emulator.qemu_io(NAME, "write 0 64k")
    assert await emulator.qemu_io(NAME, "reopen -r -o lazy-refcounts=on") == ""
    assert emulator.layer.find_node("disk").read_only
    await emulator.qemu_io(NAME, "reopen -w -c none")
    disk = emulator.layer.find_node("disk")
    assert (disk.read_only, disk.cache["direct"]) == (False, True)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("-r -w", "Only one -r/-w option may be given"),
        ("-c quick", "Invalid cache option: quick"),
        ("-c writethrough", "Cannot change cache.writeback: Device attached"),
        ("-r -o read-only=on", "Cannot set both -r/-w and 'read-only'"),
        ("-c none -o cache.direct=on", "Cannot set both -c and the cache options"),
        ("-o speed=7", "Cannot change the option 'speed'"),
    ],
)
async def test_what_cannot_be_is_refused(emulator: Emulator, words: str, refusal: str) -> None:
    before = emulator.layer.find_node("disk").common
    assert (await emulator.qemu_io(NAME, f"reopen {words}")).strip() == refusal
    assert emulator.layer.find_node("disk").common == before
