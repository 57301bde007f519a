"""Persistent bitmaps through commands: stored, removed, and what a snapshot does to them."""

from __future__ import annotations

import pytest

from blkxact.errors import QmpError
from blkxact.testing.memory_file import MemoryStorage

from .conftest import Emulator


async def stored_bitmaps(storage: MemoryStorage, name: str = "disk") -> dict[str, int]:
    """Return the bitmaps that a new emulator finds in the image, with their counts."""
    emulator = Emulator(storage)
    await emulator.add_disk(name)
    found = {name: info["count"] for name, info in emulator.bitmaps(name).items()}
    await emulator.layer.shutdown()
    return found


async def test_persistent_bitmap_is_found_after_an_orderly_end(emulator: Emulator) -> None:
    await emulator.create_disk("disk")
    await emulator.add_disk("disk")
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="b0", persistent=True)
    await emulator.qemu_io("disk", "write 64k 64k")
    await emulator.layer.shutdown()
    assert await stored_bitmaps(emulator.storage) == {"b0": 65536}


async def test_persistent_bitmap_removed_after_it_was_stored_is_gone(emulator: Emulator) -> None:
    await emulator.create_disk("disk")
    await emulator.add_disk("disk")
    for name in ("b0", "b1"):
        await emulator.execute("block-dirty-bitmap-add", node="disk", name=name, persistent=True)
    await emulator.layer.shutdown()
    again = Emulator(emulator.storage)
    await again.add_disk("disk")
    await again.execute("block-dirty-bitmap-remove", node="disk", name="b0")
    await again.layer.shutdown()
    assert await stored_bitmaps(emulator.storage) == {"b1": 0}


async def test_persistent_bitmap_removed_by_a_failed_transaction_stays(emulator: Emulator) -> None:
    await emulator.create_disk("disk")
    await emulator.add_disk("disk")
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="b0", persistent=True)
    await emulator.qemu_io("disk", "write 0 128k")
    await emulator.layer.shutdown()
    again = Emulator(emulator.storage)
    await again.add_disk("disk")
    remove = {"type": "block-dirty-bitmap-remove", "data": {"node": "disk", "name": "b0"}}
    with pytest.raises(QmpError, match="Abort action"):
        await again.execute("transaction", actions=[remove, {"type": "abort", "data": {}}])
    await again.layer.shutdown()
    assert await stored_bitmaps(emulator.storage) == {"b0": 131072}


async def test_persistent_bitmap_made_in_a_read_only_image_is_lost_with_a_word(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """As in QEMU, which takes it and cannot write it; those that were there before stay."""
    await emulator.create_disk("disk")
    await emulator.add_disk("disk")
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="b0", persistent=True)
    await emulator.layer.shutdown()
    again = Emulator(emulator.storage)
    await again.add_disk("disk", read_only=True)
    await again.layer.shutdown()
    assert not caplog.records
    again = Emulator(emulator.storage)
    await again.add_disk("disk", read_only=True)
    await again.execute("block-dirty-bitmap-add", node="disk", name="b1", persistent=True)
    await again.layer.shutdown()
    assert [record.getMessage() for record in caplog.records] == [
        "closing node 'disk': Lost persistent bitmaps: No write access"
    ]
    assert await stored_bitmaps(emulator.storage) == {"b0": 0}


async def test_persistent_bitmap_below_a_snapshot_is_stored_and_can_be_written_again(
    emulator: Emulator,
) -> None:
    """The node becomes read-only (bitmap stored), then writable again (bitmap in use)."""
    await emulator.create_disk("disk")
    await emulator.add_disk("disk")
    await emulator.execute("block-dirty-bitmap-add", node="disk", name="b0", persistent=True)
    await emulator.qemu_io("disk", "write 0 64k")
    node = emulator.layer.find_node("disk")
    await emulator.layer.blockdev.set_read_only(node, read_only=True)
    await emulator.layer.blockdev.set_read_only(node, read_only=False)
    await emulator.qemu_io("disk", "write 1M 64k")
    await emulator.layer.shutdown()
    assert await stored_bitmaps(emulator.storage) == {"b0": 131072}
