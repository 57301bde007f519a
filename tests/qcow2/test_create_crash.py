"""An image that is being made is no image until it is complete."""

import random

import pytest

from blkxact.drivers.qcow2.check import check_image
from blkxact.errors import QmpError
from blkxact.testing.memory_file import MemoryStorage

from .helpers import close_qcow2, create_qcow2, open_qcow2

MIB = 1 << 20


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"version": 2, "backing_file": "base", "backing_format": "raw"},
        {"preallocation": "metadata", "cluster_size": 4096},
    ],
)
@pytest.mark.parametrize("old", [False, True])
async def test_creation_cut_off_anywhere_leaves_a_sound_image_or_none(seeded, options, old):
    storage = MemoryStorage(random.Random(seeded.random()), history=True)
    if old:  # the remains of another image in the file are none either
        await create_qcow2(storage, "disk", MIB)
    storage.checkpoint()
    await create_qcow2(storage, "disk", 2 * MIB, **options)
    sound = 0
    for cut in [*storage.prefixes(), *storage.crashes(seeded)]:
        if not cut.exists("disk"):
            continue
        file = await cut.open("disk", read_only=True)
        if await file.pread(0, 4) != b"QFI\xfb":
            with pytest.raises(QmpError, match="not in qcow2 format"):
                await open_qcow2(cut, "disk", read_only=True)
            continue
        driver = await open_qcow2(cut, "disk", read_only=True)
        found = await check_image(driver.image)
        assert (found.leaks, found.corruptions, found.check_errors) == (0, 0, 0), found.messages
        await close_qcow2(driver)
        sound += 1
    assert sound
