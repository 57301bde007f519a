"""The client driver with servers of others: every feature and every lack of one."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from blkxact.block.node import BlockNode
from blkxact.block.types import Status, WriteFlags
from blkxact.blockdev.blockdev import Blockdev
from blkxact.errors import QmpError
from blkxact.storage.os_file import OsStorage
from tests.environment import environment

from .peers import Peer, nbdkit, qemu_nbd
from .process import run
from .simulated import failing_with

pytestmark = [pytest.mark.nbd, pytest.mark.qemu]

K = 1024
MIB = 1 << 20

Open = Callable[..., Any]


@pytest.fixture
async def blockdev() -> AsyncIterator[Blockdev]:
    storage = OsStorage()
    blockdev = Blockdev(environment(storage))
    yield blockdev
    await blockdev.close_all()
    storage.close()


async def open_export(blockdev: Blockdev, peer: Peer, **options: Any) -> BlockNode:
    members = {name.replace("_", "-"): value for name, value in options.items()}
    given = {"driver": "nbd", "node-name": "n", "server": peer.address, "discard": "unmap"}
    return await blockdev.add({**given, **members})


async def write_and_read_at_random(node: BlockNode, rng: random.Random, unit: int = 1) -> None:
    """Do what a disk does, with ten requests at a time, and compare with a ``bytearray``."""
    disk = bytearray(node.length)

    async def work(start: int, size: int) -> None:
        for _ in range(12):
            at = start + rng.randrange(size // unit) * unit
            length = min(rng.randrange(1, 64 * K // unit) * unit, start + size - at)
            match rng.randrange(5):
                case 0:
                    data = rng.randbytes(length)
                    await node.pwrite(at, data, rng.choice([WriteFlags.NONE, WriteFlags.FUA]))
                    disk[at : at + length] = data
                case 1:
                    flags = rng.choice([WriteFlags.NONE, WriteFlags.MAY_UNMAP])
                    await node.pwrite_zeroes(at, length, flags)
                    disk[at : at + length] = bytes(length)
                case 2:
                    await node.flush()
                case _:
                    assert await node.pread(at, length) == disk[at : at + length]

    area = node.length // 10 // 4096 * 4096
    await asyncio.gather(*(work(area * number, area) for number in range(10)))
    await node.flush()
    assert await node.pread(0, node.length) == disk
    for extent in await node.block_status(0, node.length):
        if extent.status & Status.ZERO:
            assert not any(disk[extent.offset : extent.offset + extent.length])


KITS = {
    "everything": [],
    "simple replies": ["--no-sr"],
    "no list, no go": ["--mask-handshake=2"],
    "not fixed": ["--mask-handshake=0"],
    "no zeroes": ["--filter=nozero"],
    "FUA without effect": ["--filter=fua", "fuamode=discard"],
    "FUA": ["--filter=fua", "fuamode=native"],
    "blocks of 4096": [
        "--filter=blocksize-policy", "blocksize-minimum=4096", "blocksize-preferred=64K",
        "blocksize-maximum=256K", "blocksize-error-policy=error",
    ],
    "no extents": ["--filter=noextents"],
    "one at a time": ["--filter=noparallel", "serialize=requests"],
}  # fmt: skip


@pytest.mark.parametrize("words", KITS.values(), ids=KITS)
async def test_server_of_any_kind_does_what_a_disk_does(
    blockdev: Blockdev, image_dir: Path, words: list[str], seeded: random.Random
) -> None:
    options = [word for word in words if word.startswith("--")]
    parameters = [word for word in words if not word.startswith("--")]
    with nbdkit(image_dir, *options, "memory", "4M", *parameters) as peer:
        node = await open_export(blockdev, peer)
        assert node.length == 4 * MIB
        await write_and_read_at_random(node, seeded)


async def test_qemu_nbd_with_an_image_does_what_a_disk_does(
    blockdev: Blockdev, image_dir: Path, seeded: random.Random
) -> None:
    image = image_dir / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "4M")
    with qemu_nbd(image_dir, "-f", "qcow2", "-x", "disk", image) as peer:
        node = await open_export(blockdev, peer, export="disk")
        await write_and_read_at_random(node, seeded)
        await blockdev.delete("n")
    run("qemu-img", "check", "-q", image)


async def test_server_of_the_old_style_is_read_by_sectors(
    blockdev: Blockdev, image_dir: Path
) -> None:
    """It cannot be written: nbdkit refuses what it offers then, to QEMU too."""
    with nbdkit(image_dir, "--oldstyle", "pattern", "1M") as peer:
        node = await open_export(blockdev, peer, read_only=True)
        assert node.driver.request_alignment == 512
        assert await node.pread(1000, 8) == (1000).to_bytes(8, "big")


async def test_size_that_is_no_multiple_of_sectors_is_read_to_the_last_byte(
    blockdev: Blockdev, image_dir: Path
) -> None:
    with nbdkit(image_dir, "pattern", "1001") as peer:
        node = await open_export(blockdev, peer, read_only=True)
        assert node.length == 1024
        data = await node.pread(0, 1024)
        assert bytes(data[992:1001]) == (992).to_bytes(8, "big") + (1000).to_bytes(8, "big")[:1]
        assert not any(data[1001:])
        extents = await node.block_status(0, 1024)
        assert [(e.offset, e.length) for e in extents] == [(0, 1001), (1001, 23)]
        assert extents[1].status & Status.ZERO


async def test_holes_of_a_server_are_told(blockdev: Blockdev, image_dir: Path) -> None:
    with nbdkit(image_dir, "data", "@1048576 1*65536 @4194303 0", "size=4M") as peer:
        node = await open_export(blockdev, peer, read_only=True)
        extents = await node.block_status(0, 4 * MIB)
        data = [(e.offset, e.length) for e in extents if not e.status & Status.ZERO]
        assert data == [(MIB, 64 * K)]


async def test_dirty_bitmap_in_place_of_the_map(blockdev: Blockdev, image_dir: Path) -> None:
    image = image_dir / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    run("qemu-img", "bitmap", "--add", image, "b0")
    run("qemu-io", "-c", "write 64k 64k", image)
    with qemu_nbd(image_dir, "-r", "-f", "qcow2", "-B", "b0", image) as peer:
        context = "qemu:dirty-bitmap:b0"
        node = await open_export(blockdev, peer, read_only=True, x_dirty_bitmap=context)
        extents = await node.block_status(0, MIB)
        dirty = [(e.offset, e.length) for e in extents if not e.status & Status.DATA]
        assert dirty == [(64 * K, 64 * K)]
        with pytest.raises(QmpError, match="requested x-dirty-bitmap nope not found"):
            await blockdev.open({"driver": "nbd", "server": peer.address, "x-dirty-bitmap": "nope"})


ERRNOS = {"EPERM": 1, "EIO": 5, "ENOMEM": 12, "EINVAL": 22, "ENOSPC": 28, "ESHUTDOWN": 108}


@pytest.mark.parametrize(("name", "number"), ERRNOS.items())
async def test_errors_of_a_server_have_their_errno(
    blockdev: Blockdev, image_dir: Path, name: str, number: int
) -> None:
    words = ["memory", "1M", f"error={name}", "error-rate=100%"]
    with nbdkit(image_dir, "--filter=error", *words) as peer:
        node = await open_export(blockdev, peer)
        await failing_with(number, node.pread(0, K))
        await failing_with(number, node.pwrite(0, bytes(K)))


async def test_errors_at_random_strike_some_requests_and_no_others(
    blockdev: Blockdev, image_dir: Path
) -> None:
    words = ["memory", "1M", "error-pread-rate=50%"]
    with nbdkit(image_dir, "--filter=error", *words) as peer:
        node = await open_export(blockdev, peer)
        await node.pwrite(0, b"x" * MIB)
        reads = (node.pread(at * K, K) for at in range(200))
        results = await asyncio.gather(*reads, return_exceptions=True)
        good = [r for r in results if not isinstance(r, BaseException)]
        assert 0 < len(good) < 200
        assert all(data == b"x" * K for data in good)


async def test_replies_that_are_late_in_turn_find_their_requests(
    blockdev: Blockdev, image_dir: Path, seeded: random.Random
) -> None:
    """Reads of zeroes come back at once, those of data later (nbdkit answers in parallel)."""
    words = ["memory", "1M", "delay-write=20ms"]
    with nbdkit(image_dir, "--filter=delay", *words) as peer:
        node = await open_export(blockdev, peer)
        order: list[str] = []

        async def note(name: str, request: Any) -> None:
            await request
            order.append(name)

        await asyncio.gather(
            note("write", node.pwrite(0, seeded.randbytes(64 * K))),
            note("read", node.pread(512 * K, K)),
        )
        assert order == ["read", "write"]


async def test_server_that_is_killed_and_started_again_is_used_again(
    blockdev: Blockdev, image_dir: Path
) -> None:
    disk = image_dir / "disk.raw"
    disk.write_bytes(bytes(MIB))
    with nbdkit(image_dir, "file", disk) as peer:
        node = await open_export(blockdev, peer, reconnect_delay=60)
        await node.pwrite(0, b"before")
        peer.kill()
        write = asyncio.create_task(node.pwrite(K, b"after"))
        await asyncio.sleep(0)
        peer.start()
        await write
        await node.flush()
        data = disk.read_bytes()
        assert data[:6] + data[K : K + 5] == b"beforeafter"


async def test_server_that_is_killed_fails_the_requests_in_flight(
    blockdev: Blockdev, image_dir: Path
) -> None:
    with nbdkit(image_dir, "--filter=delay", "memory", "1M", "delay-read=60") as peer:
        node = await open_export(blockdev, peer)
        await node.pwrite(0, b"x")
        reads = [asyncio.create_task(node.pread(at * K, K)) for at in range(30)]
        await asyncio.sleep(0)
        peer.kill()
        for read in reads:
            await failing_with(errno.EIO, read)


async def test_qcow2_over_nbd_is_an_image_for_qemu(
    blockdev: Blockdev, image_dir: Path, seeded: random.Random
) -> None:
    image = image_dir / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "4M")
    run("truncate", "-s", "8M", image)
    with qemu_nbd(image_dir, "-f", "raw", image) as peer:
        file = {"driver": "nbd", "server": peer.address}
        node = await blockdev.add({"driver": "qcow2", "node-name": "q", "file": file})
        await write_and_read_at_random(node, seeded)
        expected = bytes(await node.pread(0, node.length))
        await blockdev.delete("q")
    run("qemu-img", "check", "-q", image)
    back = image_dir / "back.raw"
    run("qemu-img", "convert", "-O", "raw", image, back)
    assert back.read_bytes() == expected


async def test_export_is_a_backing_file(blockdev: Blockdev, image_dir: Path) -> None:
    with nbdkit(image_dir, "pattern", "1M") as peer:
        image = image_dir / "over.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", peer.uri(), "-F", "raw", image)
        file = {"driver": "file", "filename": str(image)}
        node = await blockdev.add({"driver": "qcow2", "node-name": "q", "file": file})
        assert node.backing is not None
        assert node.backing.filename == peer.uri("").replace("///", "//")
        await node.pwrite(0, b"x" * 8)
        assert await node.pread(0, 16) == b"x" * 8 + (8).to_bytes(8, "big")
