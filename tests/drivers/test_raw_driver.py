"""The driver ``raw``: a child as it is, or a piece of it."""

from __future__ import annotations

import errno

import pytest

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission, Status
from blkxact.blockdev.blockdev import Blockdev
from blkxact.drivers.probe import MARKS, PROBE_SIZE, probe_format
from blkxact.errors import QmpError
from tests.environment import environment

P = Permission
KIB = 1 << 10
READ_WRITE = P.CONSISTENT_READ | P.WRITE
CHANGE = P.WRITE | P.RESIZE


@pytest.fixture
def blockdev():
    return Blockdev(environment())


@pytest.fixture
async def raw(blockdev, image_dir):
    """Make a raw node over a file of 64 KiB whose bytes tell their place."""
    path = image_dir / "a"
    path.write_bytes(bytes(range(256)) * 256)

    async def make(**options):
        return await blockdev.add(
            {
                "driver": "raw",
                "node-name": "raw",
                "file": {"driver": "file", "filename": str(path), "node-name": "file"},
                **options,
            }
        )

    return make


def refused(message):
    return pytest.raises(QmpError, match=f"^{message}$")


async def test_raw_passes_everything_through(raw, blockdev):
    node = await raw()
    assert (node.length, node.filename) == (64 * KIB, node.children["file"].node.filename)
    guest = BlockBackend(blockdev.graph, perm=READ_WRITE)
    guest.insert(node)
    await guest.pwrite(512, b"x" * 512)
    await guest.flush()
    assert bytes(await guest.pread(511, 3)) == b"\xffxx"
    file = node.children["file"].node
    (extent,) = await node.block_status(0, 64 * KIB)
    assert (extent.file, extent.file_offset, extent.depth) == (file.driver.file, 0, 0)


async def test_raw_piece_is_shifted_and_bounded(raw, blockdev):
    node = await raw(offset=1000, size=2048)
    guest = BlockBackend(blockdev.graph, perm=READ_WRITE)
    guest.insert(node)
    assert node.length == 2048
    assert bytes(await guest.pread(0, 4)) == bytes(n % 256 for n in range(1000, 1004))
    await guest.pwrite(2047, b"!")
    file = node.children["file"].node
    assert bytes(await file.pread(3047, 1)) == b"!"
    for request in (guest.pwrite(2047, b"!!"), guest.pread(2047, 2)):
        with pytest.raises(OSError) as error:  # noqa: PT011 - its errno is compared
            await request
        assert error.value.errno == errno.EIO
    (extent,) = await node.block_status(0, 2048)
    assert (extent.offset, extent.length, extent.file_offset) == (0, 2048, 1000)


async def test_raw_piece_refuses_writes_beyond_its_size_with_enospc(raw, blockdev):
    node = await raw(size=2048)
    guest = BlockBackend(blockdev.graph, perm=READ_WRITE | P.RESIZE)
    guest.insert(node)
    guest.write_beyond_end = True
    with pytest.raises(OSError) as error:  # noqa: PT011 - its errno is compared
        await guest.pwrite(2048, b"x")
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"offset": 65537},
            r"Offset \(65537\) cannot be greater than size of the containing file \(65536\)",
        ),
        (
            {"offset": 1024, "size": 65536},
            r"The sum of offset \(1024\) and size \(65536\) has to be smaller or .* file \(65536\)",
        ),
        ({"size": 1000}, "Specified size is not multiple of 512"),
    ],
)
async def test_raw_piece_outside_of_the_file_is_refused_as_in_qemu(raw, options, message):
    with refused(message):
        await raw(**options)


async def test_raw_truncate_resizes_the_file_unless_the_size_is_fixed(raw, blockdev):
    node = await raw(offset=512)
    guest = BlockBackend(blockdev.graph, perm=P.RESIZE)
    guest.insert(node)
    await guest.truncate(1024)
    assert node.children["file"].length == 1536
    with refused("Disk size too large for the chosen offset"):
        await node.driver.truncate(2**63 - 1)
    guest.close()
    await blockdev.delete("raw")
    node = await raw(size=1024)
    with refused("Cannot resize fixed-size raw disks"):
        await node.truncate(512)


@pytest.mark.parametrize(
    ("options", "perm", "expected"),
    [
        ({}, P.NONE, P.NONE),
        ({}, P.WRITE, P.WRITE),
        ({"size": 512}, P.NONE, P.NONE),
        ({"size": 512}, READ_WRITE, READ_WRITE),
        ({"size": 512}, P.WRITE_UNCHANGED, P.WRITE_UNCHANGED),
        ({"offset": 512}, CHANGE, CHANGE),
    ],
)
async def test_raw_asks_for_no_more_than_its_parents_do(raw, blockdev, options, perm, expected):
    node = await raw(**options)
    BlockBackend(blockdev.graph, perm=perm).insert(node)
    assert node.children["file"].perm == expected


async def test_raw_over_a_filter_that_sees_reads_tells_no_file(blockdev, image_dir):
    path = image_dir / "a"
    path.write_bytes(b"x" * KIB)
    node = await blockdev.add(
        {
            "driver": "raw",
            "node-name": "raw",
            "file": {"driver": "blkdebug", "image": {"driver": "file", "filename": str(path)}},
        }
    )
    (extent,) = await node.block_status(0, KIB)
    assert (extent.status, extent.file) == (Status.DATA | Status.ALLOCATED, None)


def test_probe_knows_every_mark_and_else_says_raw():
    for offset, mark, name in MARKS:
        start = bytes(offset) + mark
        assert probe_format(start.ljust(PROBE_SIZE, b"\0")) == name
        assert probe_format(b"x" + start) == "raw"
    assert probe_format(b"") == "raw"


@pytest.mark.qemu
@pytest.mark.parametrize(
    "fmt", ["raw", "qcow", "qcow2", "qed", "vmdk", "vpc", "vhdx", "vdi", "parallels"]
)
def test_probe_knows_what_qemu_img_creates(image_dir, qemu_img, fmt):
    path = image_dir / "a"
    qemu_img("create", "-q", "-f", fmt, path, "1M")
    assert probe_format(path.read_bytes()) == fmt
