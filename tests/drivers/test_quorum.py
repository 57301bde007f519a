"""The driver ``quorum``: several copies of one disk that vote."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from blkxact.block.node import BlockNode
from blkxact.block.types import Status
from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from blkxact.testing.waiting import until
from tests.emulator import Emulator

NAMES = ("a", "b", "c")


@pytest.fixture
async def emulator() -> Emulator:
    emulator = Emulator()
    for name in NAMES:
        await emulator.create(f"/{name}", "raw")
        await emulator.open(name, f"/{name}", "raw")
    return emulator


async def add(emulator: Emulator, *children: str, **options: Any) -> BlockNode:
    """Add the quorum ``q``, of which two must agree."""
    words = {"vote_threshold": 2, "children": list(children or NAMES), **options}
    await emulator.execute("blockdev-add", driver="quorum", node_name="q", **words)
    return emulator.layer.find_node("q")


async def corrupt(emulator: Emulator, *names: str) -> None:
    """Write to the images themselves, to each something else."""
    for name in names:
        file = emulator.layer.find_node(name).children["file"].node
        await file.driver.pwrite(512, name.encode())


def bad(emulator: Emulator) -> list[dict[str, Any]]:
    return emulator.named("QUORUM_REPORT_BAD")


async def test_all_children_are_written(emulator: Emulator) -> None:
    await add(emulator)
    await emulator.qemu_io("q", "write -P 42 1k 3k")
    await emulator.qemu_io("q", "write -z 2k 512")
    await emulator.execute("blockdev-del", node_name="q")
    for name in NAMES:
        for request in ("read -P 42 1k 1k", "read -P 0 2k 512", "read -P 42 2560 512"):
            assert "Pattern" not in await emulator.qemu_io(name, request)


async def test_a_read_returns_what_two_of_three_have_and_reports_the_other(
    emulator: Emulator,
) -> None:
    node = await add(emulator)
    await corrupt(emulator, "b")
    assert not any(await node.pread(0, 1024))
    place = {"sector-num": 0, "sectors-count": 2}
    assert bad(emulator) == [{"type": "read", "node-name": "b", **place}]
    assert any(await emulator.layer.find_node("b").pread(0, 1024))


async def test_rewrite_corrupted_makes_the_other_alike_without_anyone_who_writes(
    emulator: Emulator,
) -> None:
    node = await add(emulator, read_only=True, rewrite_corrupted=True)
    await corrupt(emulator, "b")
    assert not any(await node.pread(0, 1024))
    assert not any(await emulator.layer.find_node("b").pread(0, 1024))


async def test_a_read_without_a_quorum_fails(emulator: Emulator) -> None:
    node = await add(emulator)
    await corrupt(emulator, "a", "b")
    with pytest.raises(OSError, match="Input/output error") as caught:
        await node.pread(0, 1024)
    assert caught.value.errno == errno.EIO
    failure = {"reference": "q", "sector-num": 0, "sectors-count": 2}
    assert emulator.named("QUORUM_FAILURE") == [failure]


async def test_a_failed_child_does_not_matter_and_two_do(emulator: Emulator) -> None:
    node = await add(emulator)
    emulator.storage.faults.add(
        Fault("storage.pwrite", errno.ENOSPC, where={"path": "/a"}, times=None)
    )
    emulator.storage.faults.add(Fault("storage.pread", errno.EIO, where={"path": "/a"}, times=None))
    backend = emulator.plug("q")
    await backend.pwrite(0, b"x" * 512)
    assert await node.pread(0, 512) == b"x" * 512
    assert [one["error"] for one in bad(emulator)] == ["No space left on device"]
    emulator.storage.faults.add(Fault("storage.pwrite", errno.ENOSPC, where={"path": "/b"}))
    with pytest.raises(OSError, match="No space") as caught:
        await backend.pwrite(0, b"y" * 512)
    assert caught.value.errno == errno.ENOSPC
    (failure,) = emulator.named("QUORUM_FAILURE")
    assert failure["reference"] == "q"


async def test_fifo_reads_the_first_that_can_be_read(emulator: Emulator) -> None:
    node = await add(emulator, read_pattern="fifo", rewrite_corrupted=True)
    await corrupt(emulator, "b")
    assert not any(await node.pread(0, 1024))
    emulator.storage.faults.add(Fault("storage.pread", errno.EIO, where={"path": "/a"}, times=None))
    assert (await node.pread(512, 1)) == b"b"
    assert [one["node-name"] for one in bad(emulator)] == ["a"]


async def test_blkverify_ends_the_process_at_a_difference(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    node = await add(emulator, "a", "b", blkverify=True)
    await corrupt(emulator, "b")
    with pytest.raises(SystemExit) as caught:
        await node.pread(0, 1024)
    assert caught.value.code == 1
    assert caplog.messages == ["quorum: offset=0 bytes=1024 contents mismatch at offset 512"]


@pytest.mark.parametrize(
    ("options", "desc"),
    [
        ({"children": []}, "Number of provided children must be 1 or more"),
        ({"vote_threshold": 0}, "Parameter 'vote-threshold' expects a value >= 1"),
        ({"vote_threshold": 4}, "threshold may not exceed children count"),
        (
            {"blkverify": True},
            "blkverify=on can only be set if there are exactly two files and vote-threshold is 2",
        ),
        (
            {"children": ["a", "b"], "blkverify": True, "rewrite_corrupted": True},
            "rewrite-corrupted=on cannot be used with blkverify=on",
        ),
        ({"children": ["a", "long"]}, "Could not refresh total sector count: Input/output error"),
    ],
)
async def test_contradicting_options_are_refused(
    emulator: Emulator, options: dict[str, Any], desc: str
) -> None:
    await emulator.create("/long", "raw", size=1 << 20)
    await emulator.open("long", "/long", "raw")
    with pytest.raises(QmpError) as caught:
        await add(emulator, **options)
    assert caught.value.desc == desc
    assert not any(emulator.layer.find_node(name).parents for name in NAMES)


async def test_zeroes_are_where_all_children_have_zeroes(emulator: Emulator) -> None:
    for name in NAMES:
        await emulator.create(f"/{name}.qcow2")
        await emulator.open(name * 2, f"/{name}.qcow2")
    await emulator.qemu_io("aa", "write 64k 64k")
    node = await add(emulator, *(name * 2 for name in NAMES))
    extents = await node.block_status(0, 256 << 10)
    data, zero = Status.DATA | Status.ALLOCATED, Status.ZERO | Status.ALLOCATED
    found = [(one.offset >> 16, one.length >> 16, one.status) for one in extents]
    # The children that have zeroes there say so up to their end; the one with data decides.
    assert found == [(0, 1, zero), (1, 1, data), (2, 2, zero)]


# Children that come and go


async def test_a_child_is_removed_and_another_added(emulator: Emulator) -> None:
    node = await add(emulator)
    await emulator.execute("x-blockdev-change", parent="q", child="children.1")
    assert list(node.children) == ["children.0", "children.2"]
    await emulator.execute("x-blockdev-change", parent="q", node="b")
    assert list(node.children) == ["children.0", "children.2", "children.3"]
    await emulator.qemu_io("q", "write -P 42 0 1k")
    await emulator.execute("blockdev-del", node_name="q")
    assert "Pattern" not in await emulator.qemu_io("b", "read -P 42 0 1k")


@pytest.mark.parametrize(
    ("children", "blkverify", "change", "desc"),
    [
        (
            ["a", "b"],
            False,
            {"child": "children.1"},
            "The number of children cannot be lower than the vote threshold 2",
        ),
        (
            ["a", "b"],
            True,
            {"node": "c"},
            "Cannot add a child to a quorum in blkverify mode",
        ),
        (["a", "b", "c"], False, {"node": "c"}, "The node c already has a parent"),
        (
            ["a", "b"],
            False,
            {"node": "q"},
            "Making 'q' a children.2 child of 'q' would create a cycle",
        ),
    ],
)
async def test_a_change_that_cannot_be_is_refused(
    emulator: Emulator, children: list[str], *, blkverify: bool, change: dict[str, str], desc: str
) -> None:
    node = await add(emulator, *children, blkverify=blkverify)
    with pytest.raises(QmpError) as caught:
        await emulator.execute("x-blockdev-change", parent="q", **change)
    assert caught.value.desc == desc
    assert [edge.node.node_name for edge in node.children.values()] == children


async def test_a_refused_child_leaves_its_name_to_the_next(emulator: Emulator) -> None:
    node = await add(emulator, "a", "b")
    with pytest.raises(QmpError, match="cycle"):
        await emulator.execute("x-blockdev-change", parent="q", node="q")
    await emulator.execute("x-blockdev-change", parent="q", node="c")
    assert list(node.children) == ["children.0", "children.1", "children.2"]


async def test_a_child_is_repaired_by_a_mirror_of_the_quorum(emulator: Emulator) -> None:
    node = await add(emulator)
    await emulator.qemu_io("q", "write -P 42 0 1k")
    await corrupt(emulator, "b")
    words = {"device": "q", "target": "/new", "sync": "full", "format": "raw"}
    names = {"node_name": "new", "replaces": "b", "job_id": "j"}
    await emulator.execute("drive-mirror", **words, **names)
    await until(lambda: emulator.named("BLOCK_JOB_READY"))
    await emulator.execute("block-job-complete", device="j")
    await emulator.jobs_over()
    assert node.children["children.1"].node.node_name == "new"
    assert "Pattern" not in await emulator.qemu_io("new", "read -P 42 0 1k")


# Names


async def test_the_name_of_a_quorum_opens_it_again(emulator: Emulator) -> None:
    name = (await add(emulator, "a", "b")).filename
    file = '{"driver": "raw", "file": {"driver": "file", "filename": "/%s"}}'
    children = ", ".join(file % child for child in "ab")
    assert name == f'json:{{"children": [{children}], "driver": "quorum", "vote-threshold": 2}}'
    for node in ("q", "a", "b"):
        await emulator.execute("blockdev-del", node_name=node)
    again = await emulator.layer.blockdev.open_image(name)
    assert list(again.children) == ["children.0", "children.1"]
    assert again.filename == name


async def test_statistics_show_the_only_child(emulator: Emulator) -> None:
    await add(emulator, "a", "b", vote_threshold=1)
    shown = []
    for _ in range(2):
        stats = await emulator.execute("query-blockstats", query_nodes=True)
        (quorum,) = (one for one in stats if one["node-name"] == "q")
        shown.append(quorum.get("parent", {}).get("node-name"))
        if len(shown) == 1:
            await emulator.execute("x-blockdev-change", parent="q", child="children.0")
    assert shown == [None, "b"]
