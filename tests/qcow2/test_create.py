"""Images made by us and by ``qemu-img create``."""

import os

import pytest

from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.testing.memory_file import MemoryStorage

from .helpers import assert_clean, create_qcow2, make_storage, run

GIB = 1 << 30
HINT = "(use version=v3 or greater)"


def qemu_create(path, size, options):
    words = {
        "cluster_size": options.get("cluster_size", 65536),
        "compat": "0.10" if options.get("version") == 2 else "1.1",
        "refcount_bits": options.get("refcount_bits", 16),
        "lazy_refcounts": "on" if options.get("lazy_refcounts") else "off",
        "preallocation": options.get("preallocation", "off"),
        "compression_type": options.get("compression_type", "zlib"),
    }
    joined = ",".join(f"{key}={value}" for key, value in words.items())
    backing = []
    if "backing_file" in options:
        backing = ["-b", options["backing_file"]]
        backing += ["-F", options["backing_format"]] if "backing_format" in options else []
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-o", joined, *backing, path, size)


def data_of(path):
    """Return size and content of a file, without its holes and zeroes."""
    pieces = {}
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        position = 0
        while position < end:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # only a hole is left
                break
            file.seek(position & -4096)
            piece = file.read(4096)
            if any(piece):
                pieces[position // 4096] = piece
            position = (position & -4096) + 4096
    return end, pieces


def assert_same_bytes(theirs, ours):
    assert data_of(theirs) == data_of(ours)


@pytest.mark.qemu
@pytest.mark.parametrize("size", [0, 512, 1 << 20, GIB + 512, 10 * GIB])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"version": 2},
        {"cluster_size": 512},
        {"cluster_size": 1024, "refcount_bits": 1},
        {"cluster_size": 4096, "refcount_bits": 8},
        {"cluster_size": 2 << 20, "refcount_bits": 64},
        {"refcount_bits": 2, "lazy_refcounts": True},
        {"compression_type": "zstd"},
        {"backing_file": "base.img", "backing_format": "raw"},
        {"backing_file": "/images/b\udcff.img", "backing_format": "qcow2", "cluster_size": 1024},
    ],
    ids=str,
)
async def test_new_image_is_qemus_byte_for_byte(image_dir, size, options):
    theirs, ours = image_dir / "theirs", image_dir / "ours"
    qemu_create(theirs, size, options)
    await create_qcow2(make_storage(), ours, size, **options)
    assert_same_bytes(theirs, ours)


@pytest.mark.qemu
@pytest.mark.parametrize("size", [65536, 5 * GIB + 512])
@pytest.mark.parametrize("options", [{}, {"version": 2}, {"refcount_bits": 64}], ids=str)
async def test_new_image_with_metadata_is_qemus_byte_for_byte(image_dir, size, options):
    theirs, ours = image_dir / "theirs", image_dir / "ours"
    options = options | {"preallocation": "metadata"}
    qemu_create(theirs, size, options)
    await create_qcow2(make_storage(), ours, size, **options)
    assert_same_bytes(theirs, ours)


@pytest.mark.qemu
@pytest.mark.parametrize("mode", ["falloc", "full"])
async def test_new_image_with_all_its_clusters_is_sound(image_dir, mode):
    storage = make_storage()
    await create_qcow2(storage, image_dir / "disk", 8 << 20, preallocation=mode)
    storage.close()
    assert_clean(image_dir / "disk")
    assert (image_dir / "disk").stat().st_blocks * 512 >= 8 << 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "Image size must be a multiple of 512 bytes"),
        ({"cluster_size": 500}, "Cluster size must be a power of two between 512 and 2048k"),
        ({"cluster_size": 4 << 20}, "Cluster size must be a power of two between 512 and 2048k"),
        ({"refcount_bits": 3},
         "Refcount width must be a power of two and may not exceed 64 bits"),
        ({"refcount_bits": 8, "version": 2},
         f"Different refcount widths than 16 bits require compatibility level 1.1 or above {HINT}"),
        ({"lazy_refcounts": True, "version": 2},
         f"Lazy refcounts only supported with compatibility level 1.1 and above {HINT}"),
        ({"backing_format": "raw"}, "Backing format cannot be used without backing file"),
        ({"backing_file": "b", "preallocation": "metadata"},
         "Backing file and preallocation can only be used at the same time if extended_l2 is on"),
        ({"size": 1 << 60, "cluster_size": 512},
         "Could not resize image: Failed to grow the L1 table: File too large"),
    ],
)  # fmt: skip
async def test_image_that_cannot_be_made_is_refused_in_qemus_words(options, message):
    storage = MemoryStorage()
    file = await storage.create("disk")
    with pytest.raises(QmpError) as error:
        await create(StorageChild(file), CreateOptions(**{"size": 1 << 20, **options}))
    assert error.value.desc == message
