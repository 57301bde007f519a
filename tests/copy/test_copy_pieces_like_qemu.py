"""With a speed, a backup waits after the same pieces as QEMU's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.emulator import MIB, Emulator
from tests.jobs.qemu_pair import QEMU
from tests.jobs.qemu_pair import Emulator as Process

from blkxact.bitmap import DirtyBitmap
from blkxact.block.block_copy import DEFAULT_CLUSTER_SIZE, BlockCopy
from blkxact.block.child import Parent
from blkxact.block.copy_sweep import Unlimited
from blkxact.block.types import Permission
from blkxact.storage.os_file import OsStorage

pytestmark = pytest.mark.qemu

SIZE = 4 * MIB


class Slow(Unlimited):
    """Has a speed and notes the pieces, in bytes."""

    speed = 1

    def __init__(self) -> None:
        self.pieces: list[int] = []

    def account(self, length: int) -> None:
        self.pieces.append(length)


def make(path: Path, *writes: str, backing: Path | None = None, cluster: str = "64k") -> Path:
    below = [] if backing is None else ["-b", str(backing), "-F", "qcow2"]
    how = ["-q", "-f", "qcow2", "-o", f"cluster_size={cluster}"]
    subprocess.run(["qemu-img", "create", *how, *below, path, str(SIZE)], check=True)
    commands = [word for line in writes for word in ("-c", line)]
    subprocess.run(
        ["qemu-io", "-f", "qcow2", *commands, path], check=True, stdout=subprocess.DEVNULL
    )
    return path


def pieces_of_qemu(image: Path) -> list[int]:
    trace = image.parent / "trace"
    directory = image.parent
    qemu = Process((*QEMU, "-trace", "block_copy_process", "-D", str(trace)), directory)
    try:
        file = {"driver": "file", "filename": str(image)}
        qemu.execute("blockdev-add", driver="qcow2", node_name="source", file=file)
        qemu.execute("blockdev-add", driver="null-co", node_name="target", size=SIZE)
        perf = {"max-workers": 1}
        qemu.execute(
            "blockdev-backup",
            job_id="j",
            device="source",
            target="target",
            sync="full",
            x_perf=perf,
        )
        qemu.wait_for("null")
    finally:
        qemu.close()
    starts = [int(start) for start in re.findall(r"start (\d+)$", trace.read_text(), re.MULTILINE)]
    return [end - start for start, end in zip(starts, [*starts[1:], SIZE], strict=True)]


async def pieces_of_ours(image: Path) -> list[int]:
    storage = OsStorage()
    emulator = Emulator(storage)
    await emulator.open("source", str(image))
    await emulator.execute("blockdev-add", driver="null-co", node_name="target", size=SIZE)
    graph, parent = emulator.layer.graph, Parent()
    bitmap = DirtyBitmap(SIZE, DEFAULT_CLUSTER_SIZE)
    bitmap.mark(0, SIZE)
    edges = [
        graph.attach(parent, graph.nodes[name], perm=perm)
        for name, perm in (("source", Permission.CONSISTENT_READ), ("target", Permission.WRITE))
    ]
    copy = BlockCopy(*edges, copy_bitmap=bitmap, cluster_size=DEFAULT_CLUSTER_SIZE)
    control = Slow()
    await copy.copy_dirty(control, workers=1)
    for edge in edges:
        graph.detach(edge)
    await emulator.layer.shutdown()
    storage.close()
    return control.pieces


LINES = (
    "write -P1 0 256k",
    "write -z 128k 64k",  # keeps its cluster
    "write -z 256k 128k",
    "write -P2 640k 40k",
    "write -z -u 768k 128k",
    "write -c -P3 1M 256k",
    "write -P4 1280k 64k",
    "write -z -u 3M 512k",
)


@pytest.mark.parametrize("cluster", ["16k", "64k", "128k"])
async def test_pieces_of_an_image_end_where_those_of_qemu_do(image_dir: Path, cluster: str) -> None:
    image = make(image_dir / "a.qcow2", *LINES, cluster=cluster)
    pieces = await pieces_of_ours(image)
    assert len(pieces) > 10
    assert pieces == pieces_of_qemu(image)


async def test_pieces_of_a_chain_end_where_those_of_qemu_do(image_dir: Path) -> None:
    base = make(image_dir / "base.qcow2", *LINES)
    overlay = ("write -z 192k 128k", "write -z 320k 100k", "write -P6 1280k 64k", "write -z 2M 64k")
    image = make(image_dir / "top.qcow2", *overlay, backing=base)
    pieces = await pieces_of_ours(image)
    assert len(pieces) > 10
    assert pieces == pieces_of_qemu(image)
