"""Images made and looked into from outside of the daemon.

blkxact's own ``image create`` and ``image compare`` do it everywhere; QEMU's tools do it as well
where they are installed, and every image a scenario ends with is checked by them.
"""

from __future__ import annotations

import asyncio
import functools
import shutil
import subprocess
from pathlib import Path

from tests.environment import environment

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission
from blkxact.blockdev.blockdev import Blockdev
from blkxact.cli.main import main as blkxact
from blkxact.storage.os_file import OsStorage

CLUSTER = 65536
CLUSTERS = 64
SIZE = CLUSTERS * CLUSTER

HAVE_QEMU_IMG = shutil.which("qemu-img") is not None
LEAKS_ONLY = 3
"""Exit status of ``qemu-img check``: clusters are leaked, nothing else is wrong."""


async def make_image(
    path: Path, *, size: int = SIZE, backing: Path | None = None, options: str | None = None
) -> Path:
    """Make an empty qcow2 image, perhaps with a backing file of the same directory."""
    words = ["image", "create", "-q", "-f", "qcow2"]
    if options is not None:
        words += ["-o", options]
    if backing is not None:
        words += ["-F", "qcow2", "-b", backing.name]
    assert await asyncio.to_thread(blkxact, [*words, str(path), str(size)]) == 0
    return path


async def read_image(path: Path) -> bytes:
    """Return the whole disk, by blkxact's drivers in this process."""
    storage = OsStorage()
    env = environment(storage)
    graph, blockdev = env.graph, Blockdev(env)
    disk = BlockBackend(graph, perm=Permission.CONSISTENT_READ)
    try:
        disk.insert(await blockdev.open_image(str(path), {"read-only": True}, "qcow2"))
        return bytes(await disk.pread(0, disk.length))
    finally:
        disk.close()
        await blockdev.close_all()
        storage.close()


async def compare(one: Path, other: Path) -> None:
    """Assert that two images read the same, by ``blkxact image compare`` and by qemu-img."""
    words = [str(one), str(other)]
    assert await asyncio.to_thread(blkxact, ["image", "compare", *words]) == 0
    if HAVE_QEMU_IMG:
        assert "identical" in await qemu_img("compare", *words)


async def check(path: Path, *, leaks: bool = False) -> None:
    """Assert that qemu-img finds nothing wrong in an image; ``leaks`` forgives leaked clusters."""
    if HAVE_QEMU_IMG:
        await qemu_img("check", str(path), statuses=(0, LEAKS_ONLY) if leaks else (0,))


async def read_by_qemu(path: Path) -> bytes:
    """Return the whole disk as qemu-img reads it."""
    raw = path.with_suffix(".raw")
    await qemu_img("convert", "-f", "qcow2", "-O", "raw", str(path), str(raw))
    data = await asyncio.to_thread(raw.read_bytes)
    raw.unlink()
    return data


async def qemu_img(*words: str, statuses: tuple[int, ...] = (0,)) -> str:
    """Run the real ``qemu-img``; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        "qemu-img", *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    text = output.decode(errors="replace")
    assert process.returncode in statuses, f"qemu-img {' '.join(words)}: {text}"
    return text


def content_bytes(content: list[int]) -> bytes:
    """Return a disk whose clusters are filled with these patterns."""
    return b"".join(_filled(pattern) for pattern in content)


@functools.cache
def _filled(pattern: int) -> bytes:
    return bytes([pattern]) * CLUSTER


async def assert_content(path: Path, content: list[int]) -> None:
    """Assert what a disk holds, its backing files included, and that the image is sound."""
    wanted = content_bytes(content)
    readers = [read_image(path), *([read_by_qemu(path)] if HAVE_QEMU_IMG else [])]
    *contents, _ = await asyncio.gather(*readers, check(path))
    for reader, found in zip(("blkxact", "qemu-img"), contents, strict=False):
        assert found == wanted, f"by {reader}: {_difference(path, found, content)}"


def _difference(path: Path, found: bytes, content: list[int]) -> str:
    if len(found) != len(content) * CLUSTER:
        return f"{path.name} has {len(found)} bytes"
    lines = []
    for number, pattern in enumerate(content):
        cluster = found[number * CLUSTER : (number + 1) * CLUSTER]
        if cluster.count(pattern) != CLUSTER:
            lines.append(f"cluster {number} has {sorted(set(cluster))} instead of {pattern}")
    return f"{path.name}: {'; '.join(lines)}"
