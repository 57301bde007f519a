"""Changes of the graph: all or nothing, with QEMU's words where they are refused."""

from __future__ import annotations

import errno
import random
from collections import Counter

import pytest
from block_fakes import (
    READ_WRITE,
    FilterDriver,
    FormatDriver,
    Holder,
    P,
    Root,
    ScriptedDriver,
    calls_of,
    make_node,
)

from blkxact.block.backend import BlockBackend
from blkxact.block.blockers import BlockOp
from blkxact.block.drain import drained
from blkxact.block.graph import Graph
from blkxact.block.names import is_well_formed
from blkxact.errors import QmpError


def picture(graph):
    """Return all that a change may touch, by names."""
    return {
        name: (
            {child: edge.node.node_name for child, edge in node.children.items()},
            [(e.parent.parent_description(), e.name, e.perm, e.shared) for e in node.parents],
            node.held,
            {op: list(reasons) for op, reasons in node.blockers.items()},
        )
        for name, node in graph.nodes.items()
    }


def refused(desc):
    return pytest.raises(QmpError, match=f"^{desc}$")


async def test_names_are_checked_as_qemu_does():
    graph = Graph()
    make_node(graph, "n")
    BlockBackend(graph, "drive0")
    for name in ("", "9", "-a", "a b", "ä", "#block1", "a/b"):
        with refused(f"Invalid node-name: '{name}'"):
            graph.check_name(name)
    with refused("Duplicate nodes with node-name='n'"):
        graph.check_name("n")
    with refused("node-name=drive0 is conflicting with a device id"):
        graph.check_name("drive0")
    with refused("Node name too long"):
        graph.check_name("x" * 32)
    graph.check_name("x" * 31)
    assert is_well_formed("a-b.c_9")


async def test_generated_names_are_qemus_and_never_taken():
    graph = Graph(random.Random(3))
    names = [graph.generate_name() for _ in range(300)]
    assert len(set(names)) == 300
    assert all(name.startswith("#block") and name[6:].isdigit() for name in names)
    assert names[5][6] == "5"


async def test_lookup_prefers_the_device_and_refuses_as_qemu():
    graph = Graph()
    node, other = make_node(graph, "n"), make_node(graph, "other")
    backend = BlockBackend(graph, "drive0")
    with refused("Device 'drive0' has no medium"):
        graph.lookup("drive0", "drive0")
    backend.insert(other)
    assert graph.lookup("drive0", "drive0") is other
    assert graph.lookup("n", "n") is node
    with refused("Cannot find device='x' nor node-name='x'"):
        graph.lookup("x", "x")


async def test_attach_that_closes_a_circle_is_refused():
    graph = Graph()
    base = make_node(graph, "base", FormatDriver)
    top = make_node(
        graph, "top", FormatDriver, backing=make_node(graph, "mid", FormatDriver, backing=base)
    )
    before = picture(graph)
    with refused("Making 'top' a backing child of 'base' would create a cycle"):
        graph.set_backing(base, top)
    with refused("Making 'top' a backing child of 'top' would create a cycle"):
        graph.attach(top, top, "backing")
    assert picture(graph) == before


async def test_insert_and_remove_filter_move_the_parents_and_restore_them():
    graph = Graph()
    node = make_node(graph, "n", FormatDriver)
    overlay = make_node(graph, "overlay", FormatDriver, backing=node)
    guest, job = Root("guest"), Holder("job")
    guest_edge = graph.attach(guest, node, perm=READ_WRITE)
    job_edge = graph.attach(job, node)
    before = picture(graph)
    above = make_node(graph, "filter", FilterDriver, file=node)
    graph.insert_filter(node, above)
    assert guest_edge.node is above
    assert overlay.backing is above
    assert job_edge.node is node
    assert above.children["file"].perm == READ_WRITE
    graph.remove_filter(above)
    graph.unref(above)
    await graph.settled()
    after = picture(graph)
    for parents in (before["n"][1], after["n"][1]):
        parents.sort()
    assert after == before


async def test_insert_filter_attaches_an_overlay_that_has_no_backing_yet():
    graph = Graph()
    node = make_node(graph, "n", FormatDriver)
    edge = graph.attach(Root("guest"), node, perm=READ_WRITE)
    overlay = make_node(graph, "overlay", FormatDriver)
    graph.insert_filter(node, overlay)
    assert (edge.node, overlay.backing) == (overlay, node)
    assert overlay.children["backing"].perm == P.CONSISTENT_READ


async def test_insert_filter_that_is_refused_changes_nothing():
    graph = Graph()
    node = make_node(graph, "n", FormatDriver)
    graph.attach(Root("guest"), node, perm=READ_WRITE)
    overlay = make_node(graph, "overlay", FormatDriver, read_only=True)
    before = picture(graph)
    with refused("Block node is read-only"):
        graph.insert_filter(node, overlay)
    assert picture(graph) == before


async def test_replace_node_leaves_edges_from_below_the_new_node():
    graph = Graph()
    node = make_node(graph, "n", FormatDriver)
    edge = graph.attach(Root(), node)
    new = make_node(
        graph, "new", FilterDriver, file=make_node(graph, "mid", FormatDriver, backing=node)
    )
    graph.replace_node(node, new)
    assert edge.node is new
    assert graph.nodes["mid"].backing is node


async def test_replace_node_through_a_frozen_edge_is_refused_and_undone():
    graph = Graph()
    base, other = make_node(graph, "base"), make_node(graph, "other")
    top = make_node(graph, "top", FormatDriver, backing=base)
    graph.attach(Root(), base)
    graph.freeze_chain(top, base)
    before = picture(graph)
    with refused("Cannot change 'backing' link to 'base'"):
        graph.replace_node(base, other)
    with refused("Cannot change frozen 'backing' link from 'top' to 'base'"):
        graph.set_backing(top, None)
    with refused("Cannot change 'backing' link from 'top' to 'base'"):
        graph.freeze_chain(top, None)
    assert picture(graph) == before
    graph.unfreeze_chain(top, base)
    graph.set_backing(top, None)


async def test_freeze_chain_with_a_node_never_frozen_freezes_nothing():
    graph = Graph()
    base = make_node(graph, "base")
    base.never_freeze = True
    mid = make_node(graph, "mid", FormatDriver, backing=base)
    top = make_node(graph, "top", FilterDriver, file=mid)
    with refused("Cannot freeze 'backing' link to 'base'"):
        graph.freeze_chain(top, None)
    assert not top.children["file"].frozen


async def test_remove_filter_whose_link_is_frozen_is_refused():
    graph = Graph()
    node = make_node(graph, "n")
    above = make_node(graph, "filter", FilterDriver, file=node)
    graph.freeze_chain(above, None)
    with refused("Cannot change 'file' link from 'filter' to 'n'"):
        graph.remove_filter(above)


async def test_set_backing_of_a_driver_without_backing_files_is_refused():
    graph = Graph()
    with refused("Driver 'memory' of node 'n' does not support backing files"):
        graph.set_backing(make_node(graph, "n"), make_node(graph, "m"))


async def test_set_backing_that_conflicts_leaves_the_old_backing_file():
    graph = Graph()
    old, new = make_node(graph, "old"), make_node(graph, "new")
    top = make_node(graph, "top", FormatDriver, backing=old)
    graph.attach(Root("reader"), top, perm=P.CONSISTENT_READ)
    graph.attach(Root("hermit"), new, shared=P.NONE)
    before = picture(graph)
    with pytest.raises(QmpError, match="'consistent read' are both required by node 'top'"):
        graph.set_backing(top, new)
    assert picture(graph) == before


async def test_backing_file_is_blocked_but_for_what_may_be_done_to_it():
    graph = Graph()
    base = make_node(graph, "base")
    top = make_node(graph, "top", FormatDriver, backing=base)
    allowed = {op for op in BlockOp if not base.blockers.is_blocked(op)}
    assert allowed == {
        BlockOp.COMMIT_TARGET,
        BlockOp.STREAM,
        BlockOp.BACKUP_SOURCE,
        BlockOp.BACKUP_TARGET,
    }
    with refused("Node 'base' is busy: node is used as backing hd of 'top'"):
        base.check_operation(BlockOp.RESIZE)
    graph.set_backing(top, None)
    base.check_operation(BlockOp.RESIZE)


async def test_messages_name_the_device_above_a_node():
    graph = Graph()
    base = make_node(graph, "base")
    top = make_node(graph, "top", FormatDriver)
    BlockBackend(graph, "drive0").insert(top)
    graph.set_backing(top, base)
    assert top.device_or_node_name == "drive0"
    with refused("Node 'base' is busy: node is used as backing hd of 'drive0'"):
        base.check_operation(BlockOp.EJECT)


async def test_blockers_count_equal_reasons_and_name_the_latest():
    node = make_node(Graph(), "n")
    for reason in ("first", "same", "same"):
        node.blockers.block(BlockOp.EJECT, reason)
    node.blockers.unblock(BlockOp.EJECT, "same")
    with refused("Node 'n' is busy: same"):
        node.check_operation(BlockOp.EJECT)
    node.blockers.unblock(BlockOp.EJECT, "same")
    with refused("Node 'n' is busy: first"):
        node.check_operation(BlockOp.EJECT)
    node.blockers.unblock(BlockOp.EJECT, "never there")
    node.blockers.unblock(BlockOp.EJECT, "first")
    assert not node.blockers


async def test_node_is_closed_with_its_last_holder_and_takes_its_children_along():
    graph = Graph()
    file = make_node(graph, "file")
    image = make_node(graph, "image", FormatDriver, file=file)
    edge = graph.attach(Root(), image)
    graph.unref(file)
    graph.unref(image)
    await graph.settled()
    assert list(graph.nodes) == ["file", "image"]
    graph.detach(edge)
    await graph.settled()
    assert graph.nodes == {}
    assert (image.driver.closed, file.driver.closed) == (True, True)
    assert file.driver.locks[-1] == (P.NONE, P.ALL)


async def test_node_that_is_wanted_again_in_time_is_not_closed():
    graph = Graph()
    node = make_node(graph, "n")
    graph.unref(node)
    edge = graph.attach(Root(), node)
    await graph.settled()
    assert not node.driver.closed
    graph.detach(edge)
    await graph.settled()
    assert node.driver.closed


async def test_close_flushes_and_goes_on_after_errors():
    graph = Graph()
    file = make_node(graph, "file")
    image = make_node(graph, "image", FormatDriver, file=file)
    await image.pwrite(0, b"x")
    image.driver.errors = {"flush": errno.EIO, "close": errno.EIO}
    graph.unref(file)
    graph.unref(image)
    await graph.settled()
    assert [entry[0] for entry in image.driver.log] == ["pwrite", "flush", "close"]
    assert graph.nodes == {}
    assert file.driver.closed


async def test_sweep_closes_what_nobody_ever_wanted():
    graph = Graph()
    node, kept = make_node(graph, "n"), make_node(graph, "kept")
    node.refs = 0
    graph.sweep()
    await graph.settled()
    assert list(graph.nodes.values()) == [kept]


async def test_random_changes_refused_or_not_keep_the_graph_whole(seeded):
    graph = Graph()
    kinds = (ScriptedDriver, FormatDriver, FilterDriver)
    for number in range(8):
        kind = kinds[number % 3]
        make_node(graph, f"n{number}", kind, read_only=seeded.random() < 0.2)
    roots = []
    masks = (P.NONE, P.CONSISTENT_READ, P.WRITE, P.ALL, READ_WRITE)
    outcomes = {"done": 0, "refused": 0}
    for _ in range(600):
        node, other = seeded.sample(list(graph.nodes.values()), 2)
        before = picture(graph)
        try:
            match seeded.randrange(6):
                case 0:
                    perm, shared = seeded.choice(masks), seeded.choice((*masks, P.ALL, P.ALL))
                    roots.append(graph.attach(Root(), node, perm=perm, shared=shared))
                case 1 if roots:
                    graph.detach(roots.pop(seeded.randrange(len(roots))))
                case 2:
                    graph.set_backing(node, seeded.choice((other, None)))
                case 3:
                    graph.replace_node(node, other)
                case 4 if node.driver.is_filter and node.below is not None:
                    graph.remove_filter(node)
                case 5 if other.below is None and (
                    other.driver.is_filter or other.driver.supports_backing
                ):
                    graph.insert_filter(node, other)
            outcomes["done"] += 1
        except QmpError:
            outcomes["refused"] += 1
            assert picture(graph) == before
        check_whole(graph)
    assert min(outcomes.values()) > 20, outcomes


async def test_one_more_layer_costs_the_same_however_long_the_chain_is():
    graph = Graph()
    top = make_node(graph, "base", FormatDriver)
    calls = []
    for number in range(100):

        def lay_on(number=number, below=top):
            make_node(graph, f"layer{number:02}", FormatDriver, backing=below)

        calls.append(calls_of(lay_on))
        top = graph.nodes[f"layer{number:02}"]
    assert calls[50:] == [calls[50]] * 50


async def test_many_nodes_change_at_once_at_the_cost_of_each():
    calls = []
    for number in (50, 100, 200):
        graph = Graph()
        images = []
        for at in range(number):
            file = make_node(graph, f"file{at:03}")
            images.append(make_node(graph, f"image{at:03}", FormatDriver, file=file))
            graph.attach(Root(), images[-1], perm=P.CONSISTENT_READ)

        def change(graph=graph, images=images):
            graph.set_active(images, active=True)

        calls.append(calls_of(change))
    first, second, third = calls
    assert 0 < third - second <= 2.1 * (second - first)


def check_whole(graph):
    """Every edge is entered at both its ends, and every node holds what its parents need."""
    for node in graph.nodes.values():
        for name, edge in node.children.items():
            assert (edge.name, edge.parent) == (name, node)
            assert edge in edge.node.parents
        perm, shared = P.NONE, P.ALL
        assert node.parents.kinds == Counter(edge.masks for edge in node.parents)
        for edge in node.parents:
            assert edge.node is node
            perm, shared = perm | edge.perm, shared & edge.shared
            for other in node.parents:
                assert edge is other or not edge.perm & ~other.shared
        assert node.held == (perm, shared)
        assert node.driver.locks[-1:] in ([], [(perm, shared)])
        backers = [edge for edge in node.parents if edge.backing_reason]
        assert len(node.blockers.get(BlockOp.EJECT, [])) == len(backers)


async def test_change_inside_a_drained_section_is_the_same():
    graph = Graph()
    node = make_node(graph, "n")
    backend = BlockBackend(graph, "drive0", perm=READ_WRITE)
    backend.insert(node)
    async with drained([node]):
        graph.insert_filter(node, make_node(graph, "filter", FilterDriver, file=node))
    await backend.pwrite(0, b"x")
    assert graph.nodes["filter"].driver.log == [("pwrite", 0, 1)]
