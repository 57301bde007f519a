"""Jobs in one chain whose filters come and go below each other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from blkxact.block.types import Status
from blkxact.testing.waiting import until
from tests.emulator import KIB, MIB, Emulator

PIECE = 64 * KIB
NODES = ("n0", "n1", "n2", "n3", "n4")


@pytest.fixture
async def chain() -> AsyncIterator[Emulator]:
    """n0 <- n1 <- n2 <- n3 <- n4; each has data of its own."""
    emulator = Emulator()
    below = None
    for number, name in enumerate(NODES):
        await emulator.create_disk(name)
        await emulator.add_disk(name, backing=below)
        await emulator.layer.find_node(name).pwrite(number * MIB, b"%d" % number * PIECE)
        below = name
    yield emulator
    await emulator.layer.shutdown()


async def own(chain: Emulator, name: str) -> list[tuple[int, int]]:
    """Return where the node's own layer holds data: offsets and lengths."""
    node = chain.layer.find_node(name)
    extents = await node.layer_status((0, node.length))
    return [(one.offset, one.length) for one in extents if one.status & Status.DATA]


async def start_above_stream(chain: Emulator, low: int, command: str, **arguments: object) -> None:
    """Start a stream into node number ``low``, and a paused job above it; let the stream end."""
    node, bottom = NODES[low], NODES[low - 1]
    await chain.execute("block-stream", device=node, bottom=bottom, job_id="low", speed=1)
    await chain.execute(command, job_id="high", **arguments)
    await chain.execute("block-job-pause", device="high")
    await chain.execute("block-job-set-speed", device="low", speed=0)
    await chain.layer.jobs["low"].wait()
    assert await own(chain, node) == [((low - 1) * MIB, PIECE), (low * MIB, PIECE)]
    await chain.execute("block-job-resume", device="high")


async def test_stream_above_one_that_ends_copies_down_to_its_bottom_only(chain: Emulator) -> None:
    await start_above_stream(chain, 2, "block-stream", device="n4", bottom="n3")
    await chain.jobs_over()
    assert await own(chain, "n4") == [(3 * MIB, PIECE), (4 * MIB, PIECE)]


async def test_backup_of_a_top_layer_above_a_stream_that_ends_is_of_that_layer(
    chain: Emulator,
) -> None:
    await chain.create_disk("t")
    await chain.add_disk("t")
    await start_above_stream(chain, 3, "blockdev-backup", device="n4", target="t", sync="top")
    await chain.jobs_over()
    assert await own(chain, "t") == [(4 * MIB, PIECE)]


async def test_backup_of_a_top_layer_has_it_though_a_snapshot_comes_on_top(
    chain: Emulator,
) -> None:
    for name in ("t", "overlay"):
        await chain.create_disk(name)
    await chain.add_disk("t")
    await chain.add_disk("overlay", backing=None)
    await chain.execute(
        "blockdev-backup", job_id="high", device="n4", target="t", sync="top", speed=1
    )
    await chain.execute("block-job-pause", device="high")
    await chain.execute("blockdev-snapshot", node="n4", overlay="overlay")
    await chain.execute("block-job-set-speed", device="high", speed=0)
    await chain.execute("block-job-resume", device="high")
    await chain.jobs_over()
    assert await own(chain, "t") == [(4 * MIB, PIECE)]


async def test_mirror_of_a_top_layer_above_a_stream_that_ends_is_of_that_layer(
    chain: Emulator,
) -> None:
    await chain.create_disk("t")
    await chain.add_disk("t", backing=None)
    await start_above_stream(chain, 3, "blockdev-mirror", device="n4", target="t", sync="top")
    await until(lambda: chain.named("BLOCK_JOB_READY"))
    await chain.execute("block-job-complete", device="high")
    await chain.jobs_over()
    assert await own(chain, "t") == [(4 * MIB, PIECE)]
    assert chain.layer.find_node("t").backing is None


@pytest.mark.parametrize("names_bottom", [True, False])
@pytest.mark.parametrize("command", ["block-stream", "copy-on-read"])
async def test_bottom_that_is_raw_over_a_filter_has_the_data_of_its_file(
    command: str, *, names_bottom: bool
) -> None:
    emulator = Emulator()
    await emulator.create("/r.raw", "raw", size=8 * MIB)
    file = {"driver": "file", "filename": "/r.raw", "node-name": "file"}
    filtered = {"driver": "blkdebug", "image": file}
    await emulator.execute("blockdev-add", driver="raw", node_name="r", file=filtered)
    await emulator.layer.find_node("file").pwrite(MIB, b"r" * PIECE)
    await emulator.create_disk("top")
    await emulator.add_disk("top", backing="r")
    bottom = {"bottom": "r"} if names_bottom else {}
    if command == "block-stream":
        await emulator.execute(command, device="top", job_id="j", **bottom)
        await emulator.jobs_over()
    else:
        await emulator.execute("blockdev-add", driver=command, node_name="c", file="top", **bottom)
        await emulator.layer.find_node("c").pread(MIB, PIECE)
    assert await own(emulator, "top") == [(MIB, PIECE)]
    await emulator.layer.shutdown()
