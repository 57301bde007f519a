"""Compressed writes in memory: how they are packed, what they replace, and failures."""

import asyncio
import errno
import random

import pytest

from blkxact.block.types import Status, WriteFlags
from blkxact.drivers.qcow2 import compression
from blkxact.drivers.qcow2.check import check_image
from blkxact.drivers.qcow2.layout import COMPRESSED
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.storage.api import FileRange
from blkxact.testing.faults import Fault
from blkxact.testing.loop import run_simulated
from blkxact.testing.memory_file import MemoryStorage

from .helpers import close_qcow2, create_qcow2, open_qcow2

CLUSTER = 65536
MIB = 1 << 20


@pytest.fixture
def storage():
    return MemoryStorage()


async def new_disk(storage, size=MIB, *, discard=False, child=None, base=None, **options):
    await create_qcow2(storage, "disk", size, **options)
    backing = None
    if base is not None:
        storage.load("base", base)
        backing = StorageChild(await storage.open("base", read_only=True))
    return await open_qcow2(storage, "disk", discard=discard, child=child, backing=backing)


async def assert_sound(driver):
    await driver.flush()
    found = await check_image(driver.image)
    assert (found.leaks, found.corruptions, found.check_errors) == (0, 0, 0), found.messages
    return found


async def write(driver, offset, data):
    await driver.pwrite(offset, data, WriteFlags.COMPRESSED)


def text(number, length=CLUSTER):
    """Bytes that pack well and are unlike those of another number."""
    return (f"{number:08x} " * (length // 9 + 1)).encode()[:length]


def noise(number, length=CLUSTER):
    return random.Random(number).randbytes(length)


def entries(driver, length=MIB):
    return [driver.map.entry(at) for at in range(0, length, driver.cluster_size)]


def host_cluster(driver, offset):
    return compression.host_clusters(driver.map.entry(offset), driver.image.cluster_bits)[0]


# Packing


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster_size", [512, 4096, CLUSTER, 2 << 20])
async def test_compressed_write_packs_clusters_that_read_back(storage, kind, cluster_size):
    size = cluster_size * 20
    driver = await new_disk(storage, size, cluster_size=cluster_size, compression_type=kind)
    before = driver.children["file"].length
    data = b"".join(text(n, cluster_size) for n in range(20))
    await write(driver, 0, data)
    assert bytes(await driver.pread(0, size)) == data
    assert bytes(await driver.pread(size // 3, size // 3)) == data[size // 3 :][: size // 3]
    (extent,) = {(e.status, e.file) for e in await driver.block_status(0, size)}
    assert extent == (Status.DATA | Status.ALLOCATED | Status.COMPRESSED, None)
    found = await assert_sound(driver)
    assert found.compressed_clusters == 20
    if cluster_size > 512:
        assert driver.children["file"].length < before + size // 4
    await close_qcow2(driver)


@pytest.mark.parametrize("refcount_bits", [1, 2, 4, 16])
async def test_packed_clusters_share_as_much_as_counts_can_tell(storage, refcount_bits):
    driver = await new_disk(storage, refcount_bits=refcount_bits)
    for number in range(16):
        await write(driver, number * CLUSTER, text(number))
    shared = 16 // min(16, (1 << refcount_bits) - 1) + (16 % min(16, (1 << refcount_bits) - 1) > 0)
    assert len({host_cluster(driver, n * CLUSTER) for n in range(16)}) == shared
    assert bytes(await driver.pread(0, MIB)) == b"".join(text(n) for n in range(16))
    await assert_sound(driver)
    await close_qcow2(driver)


async def test_compressed_cluster_may_cross_into_the_next_of_the_file(storage):
    driver = await new_disk(storage)
    half = [noise(n, CLUSTER * 2 // 5) + bytes(CLUSTER * 3 // 5 + 1) for n in range(6)]
    for number, data in enumerate(half):
        await write(driver, number * CLUSTER, data[:CLUSTER])
    spans = [compression.host_clusters(entry, 16)[1] for entry in entries(driver)[:6]]
    assert 2 in spans
    for number, data in enumerate(half):
        assert bytes(await driver.pread(number * CLUSTER, CLUSTER)) == data[:CLUSTER]
    await assert_sound(driver)
    await driver.pdiscard(0, MIB)
    found = await assert_sound(driver)
    assert found.allocated_clusters == 0
    await close_qcow2(driver)


async def test_data_that_gets_no_smaller_is_written_plainly(storage):
    driver = await new_disk(storage)
    data = noise(1) + text(2) + noise(3) + noise(4)
    await write(driver, CLUSTER, data)
    assert bytes(await driver.pread(CLUSTER, len(data))) == data
    assert [bool(entry & COMPRESSED) for entry in entries(driver)[1:5]] == [0, 1, 0, 0]
    await assert_sound(driver)
    await close_qcow2(driver)


async def test_compressed_tail_of_the_disk_may_be_cut_short(storage):
    driver = await new_disk(storage, MIB + 1024)
    await write(driver, MIB, text(1, 1024))
    assert bytes(await driver.pread(MIB, 1024)) == text(1, 1024)
    await driver.truncate(MIB + CLUSTER)
    assert bytes(await driver.pread(MIB, CLUSTER)) == text(1, 1024).ljust(CLUSTER, b"\0")
    await assert_sound(driver)
    await close_qcow2(driver)


async def test_incompressible_tail_of_the_disk_is_written_plainly(storage):
    driver = await new_disk(storage, 2 * 512, cluster_size=512, base=bytes(1024))
    await driver.truncate(512 * 3)
    await write(driver, 1024, noise(1, 512))
    assert bytes(await driver.pread(1024, 512)) == noise(1, 512)
    await assert_sound(driver)
    await close_qcow2(driver)


async def test_compressed_write_of_a_range_of_a_file_takes_its_bytes(storage):
    driver = await new_disk(storage)
    source = await storage.create("source")
    await source.pwrite(0, text(0, 3 * MIB))
    await write(driver, 0, FileRange(source, 4711, MIB))
    assert bytes(await driver.pread(0, MIB)) == text(0, 3 * MIB)[4711:][:MIB]
    await source.close()
    await close_qcow2(driver)


@pytest.mark.parametrize(("offset", "length"), [(512, CLUSTER), (0, 512), (CLUSTER, CLUSTER + 512)])
async def test_compressed_write_of_partial_clusters_is_refused(storage, offset, length):
    driver = await new_disk(storage)
    with pytest.raises(OSError, match="Invalid argument"):
        await write(driver, offset, bytes(length))
    assert not any(entry for entry in entries(driver) if entry is not None)
    await close_qcow2(driver)


async def test_compressed_write_of_nothing_fills_the_last_sector_of_the_file(storage):
    driver = await new_disk(storage)
    await write(driver, 0, text(1))
    child = driver.children["file"]
    assert child.length % 512
    await write(driver, MIB, b"")
    assert child.length % 512 == 0
    assert bytes(await driver.pread(0, CLUSTER)) == text(1)
    await close_qcow2(driver)


# Replacing


@pytest.mark.parametrize("before", ["compressed", "normal", "zero", "allocated zero", "backing"])
@pytest.mark.parametrize("after", ["normal", "part", "zero", "discard"])
async def test_what_replaces_a_cluster_frees_its_space(storage, before, after):
    base = noise(9, MIB) if before == "backing" else None
    driver = await new_disk(storage, base=base)
    await write(driver, 0, text(0))
    expected = bytearray(text(0) + (base[CLUSTER:] if base else bytes(MIB - CLUSTER)))
    if before == "compressed":
        await write(driver, CLUSTER, text(1, 2 * CLUSTER))
        expected[CLUSTER : 3 * CLUSTER] = text(1, 2 * CLUSTER)
    elif before in ("normal", "allocated zero"):
        await driver.pwrite(CLUSTER, noise(1, 2 * CLUSTER))
        expected[CLUSTER : 3 * CLUSTER] = noise(1, 2 * CLUSTER)
    if "zero" in before:
        await driver.pwrite_zeroes(CLUSTER, 2 * CLUSTER)
        expected[CLUSTER : 3 * CLUSTER] = bytes(2 * CLUSTER)
    start, end = CLUSTER, 2 * CLUSTER
    if after == "normal":
        await driver.pwrite(start, noise(2))
        expected[start:end] = noise(2)
    elif after == "part":
        await driver.pwrite(start + 5, b"hello")
        expected[start + 5 : start + 10] = b"hello"
    else:
        await (driver.pwrite_zeroes if after == "zero" else driver.pdiscard)(start, CLUSTER)
        if not (before == "backing" and after == "discard"):
            expected[start:end] = bytes(CLUSTER)
        else:
            expected[start:end] = bytes(CLUSTER)  # a zero cluster, not the backing file
    assert bytes(await driver.pread(0, MIB)) == bytes(expected)
    await assert_sound(driver)
    if base:
        await driver.image.backing.file.close()
    await close_qcow2(driver)


@pytest.mark.parametrize(
    ("before", "is_vacant"),
    [
        ("compressed", False),
        ("normal", False),
        ("allocated zero", False),
        ("zero", True),
        ("discarded", True),
    ],
)
async def test_compressed_write_replaces_nothing(storage, before, is_vacant):
    """QEMU: qcow2_alloc_compressed_cluster_offset(). What gets no smaller is written anywhere."""
    driver = await new_disk(storage)
    if before == "compressed":
        await write(driver, 0, text(1))
    elif before != "zero":
        await driver.pwrite(0, text(1))
    if "zero" in before:
        await driver.pwrite_zeroes(0, CLUSTER)
    elif before == "discarded":
        await driver.pdiscard(0, CLUSTER)
    held = bytes(await driver.pread(0, CLUSTER))
    if is_vacant:
        await write(driver, 0, text(2))
    else:
        with pytest.raises(OSError, match="Input/output error"):
            await write(driver, 0, text(2, 2 * CLUSTER))
    after = text(2) if is_vacant else held
    assert bytes(await driver.pread(0, 2 * CLUSTER)) == after + bytes(CLUSTER)
    await write(driver, 0, noise(3))
    assert bytes(await driver.pread(0, CLUSTER)) == noise(3)
    await assert_sound(driver)
    await close_qcow2(driver)


async def test_freed_cluster_of_packed_bytes_is_not_packed_further(storage):
    driver = await new_disk(storage)
    await write(driver, 0, text(0))
    host = host_cluster(driver, 0)
    await driver.pdiscard(0, CLUSTER)
    await driver.flush()
    await driver.pwrite(CLUSTER, noise(1))
    assert driver.map.find(CLUSTER, CLUSTER) // CLUSTER == host, "the freed cluster was taken"
    await write(driver, 2 * CLUSTER, text(2))
    assert bytes(await driver.pread(CLUSTER, 2 * CLUSTER)) == noise(1) + text(2)
    await assert_sound(driver)
    await close_qcow2(driver)


async def test_snapshot_keeps_compressed_clusters_that_are_overwritten(storage):
    driver = await new_disk(storage)
    await write(driver, 0, text(0, 4 * CLUSTER))
    snapshot = await driver.internal_snapshots.create("one", date_us=0)
    with pytest.raises(OSError, match="Input/output error"):
        await write(driver, 0, text(1, 2 * CLUSTER))
    await driver.pwrite(CLUSTER, noise(2, 2 * CLUSTER))
    await assert_sound(driver)
    await driver.internal_snapshots.apply(snapshot)
    assert bytes(await driver.pread(0, 4 * CLUSTER)) == text(0, 4 * CLUSTER)
    await driver.internal_snapshots.delete(snapshot)
    await assert_sound(driver)
    await close_qcow2(driver)


# Failures


@pytest.mark.parametrize("operation", ["pwrite", "pread"])
async def test_failed_compressed_write_gives_its_bytes_back(storage, operation):
    driver = await new_disk(storage)
    if operation == "pread":  # the L2 table, which is not in memory
        await driver.pwrite(0, b"table")
        await close_qcow2(driver)
        driver = await open_qcow2(storage, "disk")
    storage.faults.add(Fault(f"storage.{operation}", errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        await write(driver, CLUSTER, text(1, 4 * CLUSTER))
    assert not any(await driver.pread(CLUSTER, 4 * CLUSTER))
    await assert_sound(driver)
    await write(driver, CLUSTER, text(2, 4 * CLUSTER))
    assert bytes(await driver.pread(CLUSTER, 4 * CLUSTER)) == text(2, 4 * CLUSTER)
    await assert_sound(driver)
    await close_qcow2(driver)


class OverwrittenMeanwhile(StorageChild):
    """Lets something happen before a read of the file."""

    meanwhile = None

    async def pread(self, offset, length):
        if self.meanwhile:
            act, self.meanwhile = self.meanwhile, None
            await act()
        return await super().pread(offset, length)


async def test_read_of_a_compressed_cluster_that_moves_meanwhile_reads_the_new_one(storage):
    await create_qcow2(storage, "disk", MIB)
    child = OverwrittenMeanwhile(await storage.open("disk"))
    driver = await open_qcow2(storage, "disk", child=child)
    await write(driver, 0, text(1))

    async def reuse():
        await driver.pdiscard(0, CLUSTER)
        await driver.flush()
        await driver.pwrite(0, b"\xff" * CLUSTER)
        assert driver.map.find(0, 1) >= 0

    child.meanwhile = reuse
    assert bytes(await driver.pread(0, CLUSTER)) == b"\xff" * CLUSTER
    await close_qcow2(driver)


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
async def test_damaged_compressed_cluster_cannot_be_read(storage, kind):
    driver = await new_disk(storage, compression_type=kind)
    await write(driver, 0, text(1))
    offset, _ = compression.locate(driver.map.entry(0), 16)
    await driver.children["file"].pwrite(offset, b"\xff" * 64)
    with pytest.raises(OSError, match="Input/output error"):
        await driver.pread(0, CLUSTER)
    await close_qcow2(driver)


@pytest.mark.parametrize("kind", [0, 1])
def test_compressed_cluster_whose_end_is_missing_is_refused(kind):
    (packed,) = compression.compress(kind, [text(1)])
    with pytest.raises(OSError, match="Input/output error"):
        compression.decompress(kind, packed[:-30], CLUSTER)


def test_zstd_cluster_of_several_frames_is_unpacked():
    zstd = compression._zstd()
    data = zstd.compress(text(1, 1000)) + zstd.compress(text(2, 3096)) + b"garbage"
    assert compression.decompress(1, data, 4096) == text(1, 1000) + text(2, 3096)


# Side by side


def test_requests_of_all_kinds_side_by_side_leave_what_the_model_has(sim_seed):
    """Each task owns clusters; all share those of the file that compressed ones are packed in."""

    async def worker(driver, rng, model, clusters):
        size = driver.cluster_size
        held = set()
        for _ in range(40):
            offset = rng.choice(clusters) * size
            data = bytes([rng.randrange(256)]) * size
            kind = rng.random()
            if kind < 0.5 and offset in held:
                with pytest.raises(OSError, match="Input/output error"):
                    await write(driver, offset, data)
                continue
            if kind < 0.5:
                await write(driver, offset, data)
                held.add(offset)
            elif kind < 0.6:
                await driver.pwrite(offset, data := rng.randbytes(size))
                held.add(offset)
            elif kind < 0.9:
                if kind < 0.7:
                    await driver.pwrite_zeroes(offset, size, WriteFlags.MAY_UNMAP)
                else:
                    await driver.pdiscard(offset, size)
                data = bytes(size)
                held.discard(offset)
            else:
                await driver.flush()
                continue
            model[offset : offset + size] = data
            assert bytes(await driver.pread(offset, size)) == data

    async def main():
        rng = random.Random(sim_seed)
        storage = MemoryStorage(random.Random(sim_seed), latency=0.01)
        size = rng.choice([512, 4096])
        bits = rng.choice([1, 2, 4, 16])
        driver = await new_disk(storage, 64 * size, cluster_size=size, refcount_bits=bits)
        model = bytearray(64 * size)
        await asyncio.gather(*(worker(driver, rng, model, range(n, 64, 4)) for n in range(4)))
        assert bytes(await driver.pread(0, 64 * size)) == bytes(model)
        await assert_sound(driver)
        await close_qcow2(driver)

    run_simulated(main(), sim_seed)
