"""Taking and dropping clusters, growth of blocks and tables, against a model of the counts."""

import random

import pytest

from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.image import open_image
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.testing.memory_file import MemoryStorage

from .helpers import create_qcow2


async def opened(storage, path="disk", **options):
    if not storage.exists(path):
        await create_qcow2(storage, path, 1 << 20, **options)
    child = StorageChild(await storage.open(path))
    return await open_image({"file": child}, writable=True)


async def test_allocation_takes_the_first_free_clusters():
    image = await opened(MemoryStorage())
    first = (await image.refcounts.allocate(3))[0]
    second = (await image.refcounts.allocate(2))[0]
    assert first[:2] == (4, 3)
    assert second[:2] == (7, 2)
    assert first.fresh
    assert second.fresh


async def test_released_cluster_is_not_taken_before_the_release_is_applied():
    image = await opened(MemoryStorage())
    refcounts = image.refcounts
    (taken,) = await refcounts.allocate(4)
    refcounts.release(taken.first, 2)
    (other,) = await refcounts.allocate(2)
    assert other.first == taken.first + 4
    await refcounts.apply_released()
    (again,) = await refcounts.allocate(1)
    assert again.first == taken.first
    assert not again.fresh, "it was written before"


async def test_holes_are_filled_by_several_runs():
    image = await opened(MemoryStorage())
    refcounts = image.refcounts
    (taken,) = await refcounts.allocate(10)
    await refcounts.unallocate(taken.first + 1, 1)
    await refcounts.unallocate(taken.first + 4, 3)
    runs = await refcounts.allocate(6)
    base = taken.first
    assert [run[:2] for run in runs] == [(base + 1, 1), (base + 4, 3), (base + 10, 2)]


async def test_clusters_in_a_row_pass_by_smaller_holes_that_stay_free():
    image = await opened(MemoryStorage())
    refcounts = image.refcounts
    (taken,) = await refcounts.allocate(10)
    await refcounts.unallocate(taken.first + 1, 2)
    run = await refcounts.allocate_contiguous(3)
    assert run.first == taken.first + 10
    (small,) = await refcounts.allocate(2)
    assert small.first == taken.first + 1


async def test_count_cannot_exceed_its_width():
    image = await opened(MemoryStorage(), refcount_bits=2)
    refcounts = image.refcounts
    (taken,) = await refcounts.allocate(1)
    await refcounts.change(taken.first, 1, 2)
    with pytest.raises(OSError, match="Invalid argument"):
        await refcounts.change(taken.first, 1, 1)
    assert await refcounts.get(taken.first) == 3


@pytest.mark.parametrize("refcount_bits", [1, 8, 16, 64])
async def test_random_use_agrees_with_a_model_and_survives_reopening(refcount_bits, seeded):
    storage = MemoryStorage(random.Random(1))
    image = await opened(storage, cluster_size=512, refcount_bits=refcount_bits)
    refcounts = image.refcounts
    ours: dict[int, int] = {}
    for _ in range(400):
        action = seeded.random()
        if action < 0.5:
            for first, count, _ in await refcounts.allocate(seeded.randrange(1, 90)):
                for cluster in range(first, first + count):
                    assert cluster not in ours
                    ours[cluster] = 1
        elif action < 0.6:
            first, count, _ = await refcounts.allocate_contiguous(seeded.randrange(1, 90))
            assert not ours.keys() & set(range(first, first + count))
            ours |= dict.fromkeys(range(first, first + count), 1)
        elif ours:
            for cluster in seeded.sample(sorted(ours), min(len(ours), 30)):
                refcounts.release(cluster)
                del ours[cluster]
            if action < 0.8:
                await image.write_back()
    await image.flush()
    child = image.file.child
    await child.truncate(max(refcounts.end << 9, child.length))  # a check ends with the file
    assert image.header.refcount_table_clusters > 1 or refcount_bits < 64, "the table has not grown"
    again = await opened(storage)
    for cluster in ours:
        assert await again.refcounts.get(cluster) == 1
    found = await check_image(again)
    # What the model holds belongs to nothing in the image: leaks, and nothing else is wrong.
    assert (found.leaks, found.corruptions, found.check_errors) == (len(ours), 0, 0)
    await child.file.close()


async def test_discard_of_what_became_free_is_passed_on_in_runs():
    image = await opened(MemoryStorage())
    asked = []

    async def pdiscard(offset, length):
        asked.append((offset >> 16, length >> 16))

    image.file.child.pdiscard = pdiscard
    (taken,) = await image.refcounts.allocate(6)
    await image.refcounts.change(taken.first + 5, 1, 1)
    image.refcounts.release(taken.first, 3, discard=True)
    image.refcounts.release(taken.first + 3, 1, discard=False)
    image.refcounts.release(taken.first + 4, 2, discard=True)
    await image.refcounts.apply_released()
    assert sorted(asked) == [(taken.first, 3), (taken.first + 4, 1)]
