"""What a node needs of its children, and when parents disagree."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from block_fakes import FILTERED, READ_WRITE, FilterDriver, FormatDriver, P, Root, make_node

from blkxact.block.child import Child
from blkxact.block.graph import Graph
from blkxact.block.parents import Parents
from blkxact.block.permissions import permission_names, role_permissions
from blkxact.block.types import ChildRole
from blkxact.errors import QmpError

R, W, U, Z, ALL, NONE = (
    P.CONSISTENT_READ,
    P.WRITE,
    P.WRITE_UNCHANGED,
    P.RESIZE,
    P.ALL,
    P.NONE,
)
DATA = ChildRole.DATA | ChildRole.PRIMARY


# role, writable, parents' perm and shared -> perm and shared of the child
@pytest.mark.parametrize(
    ("role", "writable", "perm", "shared", "expected"),
    [
        (FILTERED, True, NONE, ALL, (NONE, ALL)),
        (FILTERED, True, R | W, R | U, (R | W, R | U)),
        (FILTERED, False, R, NONE, (R, NONE)),
        (ChildRole.COW, True, R | W | Z, ALL, (R, ALL)),
        (ChildRole.COW, True, W, R | U, (NONE, R | U)),
        (ChildRole.COW, True, NONE, NONE, (NONE, R | U)),
        (ChildRole.COW, False, R, R | W, (R, ALL)),
        (ChildRole.IMAGE, True, NONE, ALL, (R | W | Z, R | U)),
        (ChildRole.IMAGE, False, NONE, ALL, (R, R | U)),
        (ChildRole.IMAGE, True, R | W, R, (R | W | Z, R)),
        (ChildRole.IMAGE, False, R, ALL, (R, R | U)),
        (DATA, True, NONE, ALL, (NONE, R | W | U)),
        (DATA, True, R | W, ALL, (R | W | Z, R | W | U)),
        (DATA, True, U, ALL, (U | W | Z, R | W | U)),
        (DATA, False, R, ALL, (R, R | W | U)),
        (ChildRole.METADATA, True, NONE, ALL, (R | W | Z, R | U)),
        (ChildRole.METADATA, False, NONE, ALL, (R, R | U)),
    ],
)
def test_role_permissions_of_each_role_are_qemus(role, writable, perm, shared, expected):
    assert role_permissions(role, perm, shared, writable=writable) == expected


def test_permission_names_list_in_qemus_order():
    assert permission_names(ALL) == "consistent read, write, write unchanged, resize"
    assert permission_names(W | Z) == "write, resize"
    assert permission_names(NONE) == ""


async def test_attach_with_conflicting_perm_is_refused_and_undone():
    graph = Graph()
    node = make_node(graph, "n")
    graph.attach(Root("a"), node, perm=READ_WRITE, shared=R)
    with pytest.raises(QmpError) as refusal:
        graph.attach(Root("b"), node, "main", perm=W, shared=ALL)
    assert refusal.value.desc == (
        "Permission conflict on node 'n': permissions 'write' are both required by root 'b' "
        "(uses node 'n' as 'main' child) and unshared by root 'a' (uses node 'n' as 'root' child)."
    )
    assert len(node.parents) == 1
    assert node.held == (READ_WRITE, R)


async def test_attach_that_unshares_what_another_uses_names_the_newcomer_last():
    graph = Graph()
    node = make_node(graph, "n")
    graph.attach(Root("a"), node, perm=READ_WRITE)
    with pytest.raises(QmpError, match=r"required by root 'a' .* unshared by root 'b' "):
        graph.attach(Root("b"), node, shared=R)


async def test_writer_of_read_only_node_is_refused():
    graph = Graph()
    node = make_node(graph, "n", read_only=True)
    with pytest.raises(QmpError, match=r"^Block node is read-only$"):
        graph.attach(Root(), node, perm=W)
    with pytest.raises(QmpError, match=r"^Block node is read-only$"):
        graph.attach(Root(), node, perm=U)
    graph.attach(Root(), node, perm=R)


async def test_writer_without_resize_of_misaligned_length_is_refused():
    graph = Graph()
    node = make_node(graph, "n", size=4096 + 512)
    node.driver.request_alignment = 4096
    with pytest.raises(QmpError, match="Cannot get 'write' permission without 'resize'"):
        graph.attach(Root(), node, perm=W)
    graph.attach(Root(), node, perm=W | Z)


async def test_permissions_travel_down_through_filter_and_format():
    graph = Graph()
    file = make_node(graph, "file")
    image = make_node(graph, "image", FormatDriver, file=file)
    top = make_node(graph, "top", FilterDriver, file=image)
    edge = graph.attach(Root(), top, perm=READ_WRITE, shared=R | W)
    assert (top.children["file"].perm, top.children["file"].shared) == (READ_WRITE, R | W)
    assert (image.children["file"].perm, image.children["file"].shared) == (R | W | Z, R)
    assert file.driver.locks[-1] == (R | W | Z, R)
    graph.detach(edge)
    assert top.children["file"].perm == NONE
    assert file.driver.locks[-1] == (R | W | Z, R | U)


async def test_conflict_deep_below_undoes_every_edge_and_lock():
    graph = Graph()
    file = make_node(graph, "file")
    top = make_node(
        graph, "top", FilterDriver, file=make_node(graph, "mid", FilterDriver, file=file)
    )
    graph.attach(Root("other"), file, perm=R, shared=R)
    before = [(n.held, [(e.perm, e.shared) for e in n.parents]) for n in graph.nodes.values()]
    with pytest.raises(QmpError, match=r"required by node 'mid' .* unshared by root 'other'"):
        graph.attach(Root("writer"), top, perm=W)
    after = [(n.held, [(e.perm, e.shared) for e in n.parents]) for n in graph.nodes.values()]
    assert after == before
    assert file.driver.locks[-1] == (R, R)


async def test_lock_refused_by_driver_undoes_the_change():
    graph = Graph()
    file = make_node(graph, "file")
    image = make_node(graph, "image", FilterDriver, file=file)
    file.driver.refuse_locks = 'Failed to get "write" lock'
    with pytest.raises(QmpError, match=r'^Failed to get "write" lock$'):
        graph.attach(Root(), image, perm=W)
    assert not image.parents
    assert image.children["file"].perm == NONE
    assert file.held == (NONE, ALL)


async def test_locks_are_taken_wider_before_they_are_let_go():
    graph = Graph()
    file = make_node(graph, "file")
    edge = graph.attach(Root(), file, perm=R, shared=ALL)
    file.driver.locks.clear()
    graph.set_permissions(edge, W, R)
    assert file.driver.locks == [(R | W, R), (W, R)]


async def test_set_permissions_that_only_loosens_never_fails():
    graph = Graph()
    file = make_node(graph, "file")
    edge = graph.attach(Root(), file, perm=R | W)
    file.driver.refuse_locks = "no"
    graph.set_permissions(edge, W, ALL)
    with pytest.raises(QmpError, match="no"):
        graph.set_permissions(edge, W | Z, ALL)


async def test_node_that_loses_its_parents_to_a_filter_that_needs_nothing_is_let_go():
    class Aloof(FilterDriver):
        def child_permissions(self, child, role, perm, shared):
            return NONE, ALL

    graph = Graph()
    node = make_node(graph, "n")
    edge = graph.attach(Root(), node, perm=W, shared=R)
    above = make_node(graph, "above", Aloof, file=node)
    graph.insert_filter(node, above)
    assert edge.node is above
    assert (node.held, node.driver.locks[-1]) == ((NONE, ALL), (NONE, ALL))
    graph.remove_filter(above)
    assert node.held == (W, R)


async def test_force_share_asks_children_to_share_everything():
    graph = Graph()
    file = make_node(graph, "file")
    image = make_node(graph, "image", FormatDriver, file=file, read_only=True)
    assert image.children["file"].shared == R | U
    image.force_share = True
    graph.refresh(image)
    assert image.children["file"].shared == ALL


async def test_request_without_permission_fails_an_assertion():
    graph = Graph()
    node = make_node(graph, "n")
    edge = graph.attach(Root(), node, perm=R)
    with pytest.raises(AssertionError):
        await edge.pwrite(0, b"x")
    with pytest.raises(AssertionError):
        await edge.pwrite_zeroes(0, 1)
    with pytest.raises(AssertionError):
        await edge.pdiscard(0, 1)
    with pytest.raises(AssertionError):
        await edge.truncate(0)
    graph.set_permissions(edge, W, ALL)
    await edge.pwrite(0, b"x")


def test_parents_keep_their_order_and_count_their_masks(seeded):
    node = SimpleNamespace()
    parents = Parents()
    edges = [Child(Root(), node, "root", FILTERED) for _ in range(20)]
    masks = (R, ALL), (W, R), (NONE, ALL)
    shown, places = [], {}
    for _ in range(500):
        edge = seeded.choice(edges)
        if edge in parents and seeded.random() < 0.3:
            parents.set_permissions(edge, *seeded.choice(masks))
        elif edge in parents:
            position, places[edge] = shown.index(edge), parents.remove(edge)
            shown.remove(edge)
            if seeded.random() < 0.5:
                parents.add(edge, places[edge])
                shown.insert(position, edge)
        else:
            parents.add(edge)
            shown.append(edge)
        assert list(parents) == shown
        assert list(reversed(parents)) == shown[::-1]
        assert parents.kinds == Counter(edge.masks for edge in shown)


async def test_one_more_parent_costs_the_same_however_many_there_are(monkeypatch):
    graph = Graph()
    node = make_node(graph, "n")
    image = make_node(graph, "image", FormatDriver, file=node)
    for number in range(50):
        graph.attach(Root(), image, perm=(R, READ_WRITE)[number % 2])
    monkeypatch.setattr(Parents, "__iter__", None)
    monkeypatch.setattr(Parents, "__reversed__", None)
    edge = graph.attach(Root(), image, perm=R)
    graph.set_permissions(edge, READ_WRITE, ALL & ~Z)
    graph.detach(edge)
    assert image.held == (READ_WRITE, ALL)
