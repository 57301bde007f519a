"""Drained sections: nothing under way, nothing begins, and everything goes on afterwards."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from block_fakes import (
    READ_WRITE,
    FilterDriver,
    FormatDriver,
    P,
    Root,
    calls_of,
    make_node,
)

from blkxact.block.backend import BlockBackend
from blkxact.block.chain import chain_nodes
from blkxact.block.drain import DrainSection, drained
from blkxact.block.graph import Graph
from blkxact.errors import QmpError
from blkxact.testing.waiting import take_turns, until_idle


def backend_on(graph, node, name=""):
    backend = BlockBackend(graph, name, perm=READ_WRITE)
    backend.insert(node)
    return backend


async def test_drained_waits_for_requests_and_holds_new_ones():
    graph = Graph()
    node = make_node(graph, "n")
    guest = backend_on(graph, node)
    node.driver.hold = asyncio.Event()
    first = asyncio.create_task(guest.pwrite(0, b"a"))
    await until_idle()
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def section():
        async with drained([node]):
            entered.set()
            await leave.wait()

    task = asyncio.create_task(section())
    await until_idle()
    second = asyncio.create_task(guest.pwrite(1, b"b"))
    await until_idle()
    assert not entered.is_set()
    node.driver.hold.set()
    await entered.wait()
    assert first.done()
    assert node.driver.log == [("pwrite", 0, 1)]
    assert not second.done()
    leave.set()
    await asyncio.gather(task, second)
    assert node.driver.log == [("pwrite", 0, 1), ("pwrite", 1, 1)]


async def test_drained_stops_roots_above_ancestors_once_and_resumes_them():
    graph = Graph()
    base = make_node(graph, "base", FormatDriver)
    left = make_node(graph, "left", FormatDriver, backing=base)
    right = make_node(graph, "right", FilterDriver, file=base)
    aside = make_node(graph, "aside")
    roots = [Root() for _ in range(4)]
    for root, node in zip(roots, (left, right, base, aside), strict=True):
        graph.attach(root, node)
    graph.attach(roots[0], right)
    async with drained([base, left, base]):
        assert [root.stopped for root in roots] == [2, 1, 1, 0]  # once for each edge
        assert [n.driver.drains for n in (base, left, right, aside)] == [1, 1, 1, 0]
        async with drained([aside, right]):
            assert [root.stopped for root in roots] == [3, 2, 1, 1]
    assert [root.stopped for root in roots] == [0, 0, 0, 0]
    assert [n.driver.drains for n in (base, left, right, aside)] == [0, 0, 0, 0]
    assert base.sections == []


async def test_drained_does_not_stop_roots_below():
    graph = Graph()
    base = make_node(graph, "base")
    top = make_node(graph, "top", FormatDriver, backing=base)
    root = Root()
    graph.attach(root, base)
    async with drained([top]):
        assert root.stopped == 0


async def test_drained_waits_for_busy_roots_and_for_work_of_nodes():
    graph = Graph()
    node = make_node(graph, "n")
    top = make_node(graph, "top", FilterDriver, file=node)
    root = Root()
    graph.attach(root, top)
    root.busy = True
    top.begin_request()
    done = []

    async def section():
        async with drained([node]):
            done.append("in")

    task = asyncio.create_task(section())
    await until_idle()
    root.end()
    await until_idle()
    assert done == []
    top.end_request()
    await task
    assert done == ["in"]


async def test_root_that_moves_away_inside_goes_on_at_once():
    graph = Graph()
    node, other = make_node(graph, "n"), make_node(graph, "other")
    root = Root()
    edge = graph.attach(root, node)
    async with drained([node]):
        graph.replace_node(node, other)
        assert (edge.node, root.stopped) == (other, 0)
    assert root.stopped == 0


async def test_root_that_is_detached_inside_goes_on_at_once():
    graph = Graph()
    node = make_node(graph, "n")
    root = Root()
    edge = graph.attach(root, node)
    async with drained([node]):
        graph.detach(edge)
        assert root.stopped == 0
    assert root.stopped == 0


async def test_root_that_arrives_inside_is_stopped_until_the_end():
    graph = Graph()
    base = make_node(graph, "base")
    top = make_node(graph, "top", FilterDriver, file=base)
    root, late = Root(), Root()
    async with drained([base]):
        graph.attach(root, top)
        assert root.stopped == 1
    assert root.stopped == 0
    graph.attach(late, base)
    assert late.stopped == 0


async def test_root_moved_to_above_a_drained_node_is_stopped():
    graph = Graph()
    node, other = make_node(graph, "n"), make_node(graph, "other")
    root = Root()
    graph.attach(root, other)
    async with drained([node]):
        graph.replace_node(other, make_node(graph, "top", FilterDriver, file=node))
        assert root.stopped == 1
    assert root.stopped == 0


async def test_root_above_a_filter_put_in_inside_is_stopped_once():
    graph = Graph()
    node = make_node(graph, "n")
    root = Root()
    graph.attach(root, node)
    async with drained([node]):
        filter_ = make_node(graph, "filter", FilterDriver, file=node)
        graph.insert_filter(node, filter_)
        assert root.stopped == 1
        assert filter_.driver.drains == 1
        graph.remove_filter(filter_)
        assert root.stopped == 1
    assert root.stopped == 0
    assert filter_.driver.drains == 0


async def test_requests_held_meanwhile_meet_the_changed_graph():
    graph = Graph()
    node = make_node(graph, "n")
    guest = backend_on(graph, node)
    async with drained([node]):
        task = asyncio.create_task(guest.pwrite(0, b"x"))
        await until_idle()
        graph.insert_filter(node, make_node(graph, "filter", FilterDriver, file=node))
    await task
    assert graph.nodes["filter"].driver.log == [("pwrite", 0, 1)]


async def test_two_sections_at_a_time_resume_when_the_last_ends():
    graph = Graph()
    node = make_node(graph, "n")
    root = Root()
    graph.attach(root, node)
    leave = [asyncio.Event(), asyncio.Event()]

    async def section(number):
        async with drained([node]):
            await leave[number].wait()

    tasks = [asyncio.create_task(section(n)) for n in range(2)]
    await until_idle()
    leave[0].set()
    await tasks[0]
    assert root.stopped == 1
    leave[1].set()
    await tasks[1]
    assert root.stopped == 0


@pytest.mark.parametrize("ending", ["error", "cancelled inside", "cancelled while waiting"])
async def test_section_that_ends_badly_resumes_all(ending):
    graph = Graph()
    node = make_node(graph, "n")
    root = Root()
    graph.attach(root, node)
    root.busy = ending == "cancelled while waiting"

    async def section():
        async with drained([node]):
            if ending == "error":
                raise ValueError
            await asyncio.Event().wait()

    task = asyncio.create_task(section())
    await until_idle()
    task.cancel()
    with pytest.raises((ValueError, asyncio.CancelledError)):
        await task
    assert root.stopped == 0
    assert node.sections == []


async def test_random_sections_requests_and_changes_keep_the_promise(seeded):
    """Guests write all the time; inside each section nothing runs, and in the end all was done."""
    graph = Graph()
    nodes = [make_node(graph, f"n{i}", FormatDriver) for i in range(3)]
    guests = [backend_on(graph, node) for node in nodes]
    written = 0

    async def guest(backend):
        nonlocal written
        for _ in range(60):
            await backend.pwrite(seeded.randrange(1000), b"x")
            written += 1
            await take_turns(seeded.randrange(4))

    async def changer(number):
        for step in range(12):
            top = guests[seeded.randrange(3)].node
            async with drained([top]):
                assert top.is_idle()
                edges = [e for e in top.parents if isinstance(e.parent, BlockBackend)]
                assert all(e.parent.is_idle() for e in edges)
                count = len(top.driver.log)
                if top.driver.is_filter and seeded.random() < 0.5:
                    graph.remove_filter(top)
                else:
                    name = f"f{number}.{step}"
                    graph.insert_filter(top, make_node(graph, name, FilterDriver, file=top))
                await take_turns(5)
                assert len(top.driver.log) == count
            await take_turns(seeded.randrange(6))

    await asyncio.gather(*map(guest, guests), *map(changer, range(2)))
    assert written == 180
    assert all(guest.quiesced == 0 for guest in guests)
    assert sum(entry[0] == "pwrite" for node in nodes for entry in node.driver.log) == 180


async def test_node_named_by_no_section_gets_no_overhead():
    graph = Graph()
    node = make_node(graph, "n")
    edge = graph.attach(Root(), node, perm=P.CONSISTENT_READ)
    assert (node.sections, edge.node) == ([], node)


async def test_backend_that_leaves_a_drained_node_goes_on():
    graph = Graph()
    held, free = make_node(graph, "held"), make_node(graph, "free")
    guest = backend_on(graph, held)
    async with drained([held]):
        guest.remove()
        guest.insert(free)
        await guest.pwrite(0, b"a")
        guest.remove()
        guest.insert(held)
        second = asyncio.create_task(guest.pwrite(0, b"b"))
        await until_idle()
        assert not second.done()
    await second
    assert held.driver.log == [("pwrite", 0, 1)]


async def test_backend_that_leaves_one_of_two_drained_nodes_waits_for_the_other():
    graph = Graph()
    one, other = make_node(graph, "one"), make_node(graph, "other")
    guest = backend_on(graph, one)
    async with drained([one]):
        async with drained([other]):
            guest.remove()
            guest.insert(other)
            write = asyncio.create_task(guest.pwrite(0, b"a"))
            await until_idle()
            assert not write.done()
        await write


LEAVINGS = {
    "moved": lambda graph, top, other: graph.set_backing(top, other),
    "unlinked": lambda graph, top, _: graph.set_backing(top, None),
    "replaced": lambda graph, top, other: graph.replace_node(top.below, other),
    "detached": lambda graph, top, _: graph.detach(top.children["backing"]),
}


@pytest.mark.parametrize("leave", LEAVINGS)
async def test_what_is_above_a_node_that_leaves_a_drained_one_goes_on_at_once(leave):
    graph = Graph()
    held, other = make_node(graph, "held"), make_node(graph, "other")
    top = make_node(graph, "top", FormatDriver, backing=held)
    above = make_node(graph, "above", FilterDriver, file=top)
    guest, root = backend_on(graph, above), Root()
    graph.attach(root, top)
    async with drained([held]):
        assert (root.stopped, above.driver.drains) == (1, 1)
        LEAVINGS[leave](graph, top, other)
        assert (root.stopped, top.driver.drains, above.driver.drains) == (0, 0, 0)
        assert (top.sections, above.sections) == ([], [])
        await guest.pwrite(0, b"a")
        graph.set_backing(top, held)
        assert (root.stopped, guest.quiesced, above.driver.drains) == (1, 1, 1)
    assert (root.stopped, guest.quiesced, held.sections, above.driver.drains) == (0, 0, [], 0)


async def test_what_another_way_leads_to_a_drained_node_stays_stopped():
    graph = Graph()
    held, other = make_node(graph, "held"), make_node(graph, "other")
    left = make_node(graph, "left", FormatDriver, file=other, backing=held)
    top = make_node(graph, "top", FormatDriver, file=held, backing=left)
    root = Root()
    graph.attach(root, top)
    async with drained([held]), drained([top]):
        graph.set_backing(left, None)
        assert (left.driver.drains, top.driver.drains, root.stopped) == (1, 2, 2)  # below ``top``
        graph.set_backing(top, None)
        assert root.stopped == 2
        graph.detach(top.children["file"])
        assert (top.driver.drains, root.stopped) == (1, 1)
    assert (left.driver.drains, top.driver.drains, root.stopped) == (0, 0, 0)


async def test_root_whose_way_to_a_drained_node_changes_does_not_go_on_in_between():
    graph = Graph()
    held = make_node(graph, "held")
    guest = backend_on(graph, held)
    turned = []
    guest.resume = lambda: (turned.append("resumed"), BlockBackend.resume(guest))
    async with drained([held]):
        filter_ = make_node(graph, "filter", FilterDriver, file=held)
        graph.insert_filter(held, filter_)
        graph.remove_filter(filter_)
        graph.insert_filter(held, make_node(graph, "overlay", FormatDriver))
        assert not turned
    assert turned == ["resumed"]


async def test_change_that_fails_lets_nothing_go_on():
    graph = Graph()
    held, other = make_node(graph, "held"), make_node(graph, "other", read_only=True)
    guest, root = backend_on(graph, held), Root()
    graph.attach(root, held)
    async with drained([held]):
        with pytest.raises(QmpError, match="read-only"):
            graph.replace_node(held, other)
        assert (guest.quiesced, root.stopped) == (1, 1)
    assert (guest.quiesced, root.stopped) == (0, 0)


async def test_random_changes_stop_exactly_what_is_above_drained_nodes(seeded):
    graph = Graph()
    nodes = [make_node(graph, f"n{number}", FormatDriver) for number in range(7)]
    roots = [Root() for _ in range(5)]
    edges = [graph.attach(root, seeded.choice(nodes)) for root in roots]
    sections = []
    for _ in range(400):
        match seeded.randrange(6):
            case 0 if len(sections) < 3:
                sections.append(DrainSection(seeded.sample(nodes, seeded.randrange(1, 3))))
                sections[-1].begin()
            case 1 if sections:
                sections.pop(seeded.randrange(len(sections))).end()
            case 2:
                graph.redirect(seeded.choice(edges), seeded.choice(nodes))
            case 3 if len(edges) < 9:
                edges.append(graph.attach(seeded.choice(roots), seeded.choice(nodes)))
            case 4 if len(edges) > 3:
                graph.detach(edges.pop(seeded.randrange(len(edges))))
            case _:
                with suppress(QmpError):  # a cycle
                    graph.set_backing(seeded.choice(nodes), seeded.choice((*nodes, None)))
        for node in nodes:
            held = [one for one in sections if set(chain_nodes(node)) & set(one.nodes)]
            assert set(node.sections) == set(held)
            assert len(node.sections) == len(held)
        for root in roots:
            ways = (len(edge.node.sections) for edge in edges if edge.parent is root)
            assert root.stopped == sum(ways)
    for section in sections:
        section.end()
    assert not any(node.sections or node.driver.drains for node in nodes)
    assert not any(root.stopped for root in roots)


async def test_filter_put_in_and_taken_out_costs_the_same_for_each_parent():
    calls = []
    for number in (50, 100, 200):
        graph = Graph()
        node = make_node(graph, "n")
        for _ in range(number):
            graph.attach(Root(), node, perm=P.CONSISTENT_READ)
        filter_ = make_node(graph, "filter", FilterDriver)

        def put_in_and_take_out(graph=graph, node=node, filter_=filter_):
            graph.insert_filter(node, filter_)
            graph.remove_filter(filter_)

        async with drained([node]):
            calls.append(calls_of(put_in_and_take_out))
    first, second, third = calls
    assert 0 < third - second <= 2.1 * (second - first)
