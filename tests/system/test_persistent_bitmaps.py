"""Persistent bitmaps through commands: stored, removed, and what a snapshot does to them."""

from __future__ import annotations

import pytest

from blkxact.errors import QmpError
from blkxact.testing.memory_file import MemoryStorage

from .conftest import House


async def stored_bitmaps(storage: MemoryStorage, name: str = "disk") -> dict[str, int]:
    """Return the bitmaps that a new emulator finds in the image, with their counts."""
    house = House(storage)
    await house.add_disk(name)
    found = {name: info["count"] for name, info in house.bitmaps(name).items()}
    await house.layer.shutdown()
    return found


async def test_persistent_bitmap_is_found_after_an_orderly_end(house: House) -> None:
    await house.create_disk("disk")
    await house.add_disk("disk")
    await house.execute("block-dirty-bitmap-add", node="disk", name="b0", persistent=True)
    await house.qemu_io("disk", "write 64k 64k")
    await house.layer.shutdown()
    assert await stored_bitmaps(house.storage) == {"b0": 65536}


async def test_persistent_bitmap_removed_after_it_was_stored_is_gone(house: House) -> None:
    await house.create_disk("disk")
    await house.add_disk("disk")
    for name in ("b0", "b1"):
        await house.execute("block-dirty-bitmap-add", node="disk", name=name, persistent=True)
    await house.layer.shutdown()
    again = House(house.storage)
    await again.add_disk("disk")
    await again.execute("block-dirty-bitmap-remove", node="disk", name="b0")
    await again.layer.shutdown()
    assert await stored_bitmaps(house.storage) == {"b1": 0}


async def test_persistent_bitmap_removed_by_a_failed_transaction_stays(house: House) -> None:
    await house.create_disk("disk")
    await house.add_disk("disk")
    await house.execute("block-dirty-bitmap-add", node="disk", name="b0", persistent=True)
    await house.qemu_io("disk", "write 0 128k")
    await house.layer.shutdown()
    again = House(house.storage)
    await again.add_disk("disk")
    remove = {"type": "block-dirty-bitmap-remove", "data": {"node": "disk", "name": "b0"}}
    with pytest.raises(QmpError, match="Abort action"):
        await again.execute("transaction", actions=[remove, {"type": "abort", "data": {}}])
    await again.layer.shutdown()
    assert await stored_bitmaps(house.storage) == {"b0": 131072}


async def test_persistent_bitmap_made_in_a_read_only_image_is_lost_with_a_word(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """As in QEMU, which takes it and cannot write it; those that were there before stay."""
    await house.create_disk("disk")
    await house.add_disk("disk")
    await house.execute("block-dirty-bitmap-add", node="disk", name="b0", persistent=True)
    await house.layer.shutdown()
    again = House(house.storage)
    await again.add_disk("disk", read_only=True)
    await again.layer.shutdown()
    assert not caplog.records
    again = House(house.storage)
    await again.add_disk("disk", read_only=True)
    await again.execute("block-dirty-bitmap-add", node="disk", name="b1", persistent=True)
    await again.layer.shutdown()
    assert [record.getMessage() for record in caplog.records] == [
        "closing node 'disk': Lost persistent bitmaps: No write access"
    ]
    assert await stored_bitmaps(house.storage) == {"b0": 0}


async def test_persistent_bitmap_below_a_snapshot_is_stored_and_can_be_written_again(
    house: House,
) -> None:
    """The node becomes read-only (bitmap stored), then writable again (bitmap in use)."""
    await house.create_disk("disk")
    await house.add_disk("disk")
    await house.execute("block-dirty-bitmap-add", node="disk", name="b0", persistent=True)
    await house.qemu_io("disk", "write 0 64k")
    node = house.layer.find_node("disk")
    await house.layer.blockdev.set_read_only(node, read_only=True)
    await house.layer.blockdev.set_read_only(node, read_only=False)
    await house.qemu_io("disk", "write 1M 64k")
    await house.layer.shutdown()
    assert await stored_bitmaps(house.storage) == {"b0": 131072}
