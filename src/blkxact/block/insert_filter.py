"""Filter nodes that jobs put into the graph, and take out again.

QEMU's counterpart: ``bdrv_insert_node`` and ``bdrv_new_open_driver`` in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from blkxact.errors import QmpError

from .child import Child
from .drain import drained
from .driver_api import BlockDriver
from .graph import Graph
from .node import BlockNode
from .node_options import NodeOptions
from .open_context import OpenContext

MakeDriver = Callable[[OpenContext, Mapping[str, Child]], Awaitable[BlockDriver]]
"""Makes the driver of a filter over its children; raises ``QmpError``."""


async def insert_filter(
    graph: Graph,
    driver_class: type[BlockDriver],
    children: Mapping[str, BlockNode],
    node_name: str | None = None,
    *,
    make: MakeDriver | None = None,
) -> BlockNode:
    """Make a filter above the first of ``children``, and give it all other parents of that node.

    The caller holds the filter (``Graph.ref``); ``drop_filter`` takes it out. Raises ``QmpError``
    with the graph as it was.
    """
    try:
        above = await open_filter(graph, driver_class, children, node_name, make=make)
    except QmpError as error:
        raise QmpError(f"Could not create node: {error.desc}") from error
    below = next(iter(children.values()))
    try:
        async with drained([below]):
            graph.replace_node(below, above)
    except BaseException as error:
        graph.unref(above)
        await graph.settled()
        if isinstance(error, QmpError):
            raise QmpError(f"Could not replace node: {error.desc}") from error
        raise
    return above


async def open_filter(
    graph: Graph,
    driver_class: type[BlockDriver],
    children: Mapping[str, BlockNode],
    node_name: str | None = None,
    *,
    make: MakeDriver | None = None,
    read_only: bool = False,
) -> BlockNode:
    """Return a new filter node, held by the caller and without parents.

    ``children`` are by the names of ``driver_class.child_roles``. ``make`` makes the driver where
    it needs more than its children. Raises ``QmpError``.
    """
    if node_name is None:
        name = graph.generate_name()
        common = NodeOptions(read_only=read_only)
    else:
        graph.check_name(node_name)
        name = node_name
        common = NodeOptions(node_name, read_only, given={"node-name": node_name})
    node = BlockNode(
        name, {"driver": driver_class.format_name, **common.given}, read_only=read_only
    )
    node.take_common(common)
    node.opening_as = driver_class
    graph.add(node)
    graph.ref(node)
    try:
        for child, role in driver_class.child_roles({}).items():
            graph.attach(node, children[child], child, role)
        below = next(iter(children.values()))
        context = OpenContext(below.driver.context.env, name, read_only=read_only)
        if make is None:
            driver = await driver_class.open(context, {}, node.children)
        else:
            driver = await make(context, node.children)
        node.opened(driver)
        graph.refresh(node)
    except BaseException:
        graph.unref(node)
        await graph.settled()
        raise
    return node


def drop_filter(graph: Graph, above: BlockNode) -> None:
    """Take a filter out of the graph and release it."""
    graph.remove_filter(above)
    graph.unref(above)
