"""The graph as a whole, write thresholds, amending, and histograms of latencies."""

from __future__ import annotations

from typing import Any

import pytest

from blkxact.errors import QmpError

from .conftest import MIB, Emulator


@pytest.fixture
async def disk(emulator: Emulator) -> Emulator:
    """Return an emulator with the nodes ``q`` and ``r``."""
    for name in ("q", "r"):
        await emulator.create_disk(name, MIB)
        await emulator.add_disk(name)
    return emulator


async def refusal(emulator: Emulator, command: str, **arguments: Any) -> str:
    with pytest.raises(QmpError) as refused:
        await emulator.execute(command, **arguments)
    return refused.value.desc


# Write thresholds


async def test_threshold_is_reported_once_when_a_write_ends_beyond_it(disk: Emulator) -> None:
    await disk.execute("block-set-write-threshold", node_name="q", write_threshold=65536)
    await disk.qemu_io("q", "write 0 64k")
    assert not disk.named("BLOCK_WRITE_THRESHOLD")
    assert await threshold(disk) == 65536
    await disk.qemu_io("q", "write 64k 512")
    await disk.qemu_io("q", "write 64k 1k")
    expected = {"node-name": "q", "amount-exceeded": 512, "write-threshold": 65536}
    assert disk.named("BLOCK_WRITE_THRESHOLD") == [expected]
    assert await threshold(disk) == 0


@pytest.mark.parametrize("line", ["write -z 0 4k", "write 3000 1096", "write 0 4k"])
async def test_threshold_is_passed_by_every_kind_of_write(disk: Emulator, line: str) -> None:
    await disk.execute("block-set-write-threshold", node_name="q", write_threshold=1000)
    await disk.qemu_io("q", line)
    (event,) = disk.named("BLOCK_WRITE_THRESHOLD")
    assert event["amount-exceeded"] == 3096


async def test_threshold_is_not_passed_by_reads_and_discards(disk: Emulator) -> None:
    await disk.execute("block-set-write-threshold", node_name="q", write_threshold=1000)
    await disk.qemu_io("q", "read 0 64k")
    await disk.qemu_io("q", "discard 0 64k")
    assert not disk.named("BLOCK_WRITE_THRESHOLD")


async def test_threshold_of_zero_is_none(disk: Emulator) -> None:
    await disk.execute("block-set-write-threshold", node_name="q", write_threshold=1000)
    await disk.execute("block-set-write-threshold", node_name="q", write_threshold=0)
    await disk.qemu_io("q", "write 0 64k")
    assert not disk.named("BLOCK_WRITE_THRESHOLD")
    desc = await refusal(disk, "block-set-write-threshold", node_name="x", write_threshold=0)
    assert desc == "Device 'x' not found"


async def threshold(emulator: Emulator) -> int:
    nodes = await emulator.execute("query-named-block-nodes", flat=True)
    return next(node["write_threshold"] for node in nodes if node["node-name"] == "q")


# The graph


async def test_graph_shows_device_job_filter_and_nodes(disk: Emulator) -> None:
    await disk.execute("device_add", driver="virtio-blk-pci", id="v", drive="q")
    words = {"device": "q", "target": "r", "sync": "none", "filter_node_name": "f"}
    await disk.execute("blockdev-backup", job_id="b", **words)
    graph = await disk.execute("x-debug-query-block-graph")
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    kinds = {node["name"]: node["type"] for node in graph["nodes"]}
    device = "/machine/peripheral/v/virtio-backend"
    assert len(names) == len(graph["nodes"]) == 7
    assert kinds["b"] == "block-job"
    assert kinds[device] == "block-backend"
    assert kinds["f"] == kinds["q"] == "block-driver"
    edges = {
        (names[edge["parent"]], edge["name"], names[edge["child"]]): edge for edge in graph["edges"]
    }
    assert edges[device, "root", "f"]["perm"] == ["write", "consistent-read"]
    assert edges["f", "file", "q"]["shared-perm"] == ["write-unchanged", "consistent-read"]
    assert {(parent, child) for parent, _, child in edges} >= {("b", "f"), ("b", "r"), ("f", "r")}
    await disk.execute("job-cancel", id="b")
    await disk.layer.shutdown()


# Changing and amending


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({"parent": "x"}, "Cannot find device='x' nor node-name='x'"),
        ({"parent": "q"}, "Either child or node must be specified"),
        (
            {"parent": "q", "child": "a", "node": "b"},
            "The parameters child and node are in conflict",
        ),
        ({"parent": "q", "child": "a"}, "Node 'q' does not have child 'a'"),
        ({"parent": "q", "child": "file"}, "The node q does not support removing a child"),
        ({"parent": "q", "node": "b"}, "Node 'b' not found"),
        ({"parent": "q", "node": "r"}, "The node q does not support adding a child"),
    ],
)
async def test_children_of_a_node_do_not_change(
    disk: Emulator, arguments: dict[str, str], desc: str
) -> None:
    assert await refusal(disk, "x-blockdev-change", **arguments) == desc


async def test_amending_is_a_job_that_has_nothing_to_do(disk: Emulator) -> None:
    words = {"job_id": "j", "node_name": "q"}
    await disk.execute("x-blockdev-amend", options={"driver": "qcow2"}, **words)
    assert await refusal(disk, "blockdev-del", node_name="q") == "Block device q is in use"
    await disk.jobs_over()
    (job,) = await disk.execute("query-jobs")
    done = {"type": "amend", "status": "concluded", "current-progress": 1, "total-progress": 1}
    assert job == {"id": "j", **done}
    await disk.execute("job-dismiss", id="j")
    await disk.execute("blockdev-del", node_name="q")


async def test_amending_anything_but_qcow2_is_refused(disk: Emulator) -> None:
    words = {"job_id": "j", "node_name": "q"}
    desc = await refusal(disk, "x-blockdev-amend", options={"driver": "file"}, **words)
    assert desc == "x-blockdev-amend doesn't support changing the block driver"
    await disk.execute("blockdev-add", driver="null-co", node_name="n")
    words["node_name"] = "n"
    desc = await refusal(disk, "x-blockdev-amend", options={"driver": "null-co"}, **words)
    assert desc == "Driver does not support x-blockdev-amend"
    assert not disk.layer.jobs


# Histograms


async def histograms(emulator: Emulator) -> dict[str, Any]:
    (info,) = await emulator.execute("query-blockstats")
    return {name: value for name, value in info["stats"].items() if "histogram" in name}


async def test_histogram_counts_requests_by_their_latency(disk: Emulator) -> None:
    await disk.execute("device_add", driver="virtio-blk-pci", id="v", drive="q")
    far = 10**18
    words = {"boundaries": [1, far], "boundaries-write": [far, far + 1, far + 2]}
    await disk.execute_wire("block-latency-histogram-set", {"id": "v", **words})
    for line in ("aio_write 0 64k", "aio_read 0 64k", "aio_read 0 64k", "aio_flush"):
        await disk.qemu_io("v", line)
    await disk.layer.guest.idle()
    assert await histograms(disk) == {
        "rd_latency_histogram": {"boundaries": [1, far], "bins": [0, 2, 0]},
        "wr_latency_histogram": {"boundaries": [far, far + 1, far + 2], "bins": [1, 0, 0, 0]},
        "flush_latency_histogram": {"boundaries": [1, far], "bins": [0, 1, 0]},
    }
    await disk.execute("block-latency-histogram-set", id="v")
    assert await histograms(disk) == {}
    await disk.layer.shutdown()


@pytest.mark.parametrize("boundaries", [[0, 10], [10, 10], [10, 5]])
async def test_histogram_with_boundaries_that_do_not_ascend_is_refused(
    disk: Emulator, boundaries: list[int]
) -> None:
    await disk.execute("device_add", driver="virtio-blk-pci", id="v", drive="q")
    words = {"id": "v", "boundaries_flush": boundaries}
    desc = await refusal(disk, "block-latency-histogram-set", **words)
    assert desc == "Device 'v' set flush boundaries fail"
    assert await histograms(disk) == {}
    await disk.layer.shutdown()
