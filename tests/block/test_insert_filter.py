"""Filters that jobs put into the graph."""

from __future__ import annotations

import pytest
from tests.memory_disks import MemoryDisks

from blkxact.block.insert_filter import drop_filter, insert_filter, open_filter
from blkxact.block.types import Permission
from blkxact.drivers.commit_top import CommitTopDriver
from blkxact.errors import QmpError


@pytest.fixture
def disks():
    disks = MemoryDisks()
    disks.disk("disk", 1 << 20)
    return disks


async def test_insert_filter_gets_the_parents_and_drop_gives_them_back(disks):
    guest = disks.guest("disk")
    disk = disks.graph.nodes["disk"]
    guest.set_permissions(Permission.CONSISTENT_READ, Permission.ALL)
    above = await insert_filter(disks.graph, CommitTopDriver, {"backing": disk}, "above")
    assert (guest.node, above.below) == (above, disk)
    await guest.pread(0, 512)
    drop_filter(disks.graph, above)
    await disks.graph.settled()
    assert (guest.node, "above" in disks.graph.nodes) == (disk, False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("disk", "Duplicate nodes with node-name='disk'"),
        ("#disk", "Invalid node-name: '#disk'"),
        ("n" * 32, "Node name too long"),
    ],
)
async def test_open_filter_with_a_bad_name_is_refused(disks, name, text):
    nodes = set(disks.graph.nodes)
    with pytest.raises(QmpError, match=f"^{text}$"):
        await open_filter(
            disks.graph, CommitTopDriver, {"backing": disks.graph.nodes["disk"]}, name
        )
    assert set(disks.graph.nodes) == nodes


async def test_insert_filter_that_fails_leaves_the_graph_as_it_was(disks):
    guest = disks.guest("disk")
    disk = disks.graph.nodes["disk"]
    guest.root.frozen = True

    async def fail(context, children):
        raise QmpError("cannot be made")

    with pytest.raises(QmpError, match=r"^Could not create node: cannot be made$"):
        await insert_filter(disks.graph, CommitTopDriver, {"backing": disk}, make=fail)
    with pytest.raises(QmpError, match=r"^Could not replace node: Cannot change 'root' link"):
        await insert_filter(disks.graph, CommitTopDriver, {"backing": disk})
    assert guest.node is disk
    assert set(disks.graph.nodes) == {"disk"}
    assert disk.is_idle()
