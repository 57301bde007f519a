"""Commands on nodes that few clients use.

QEMU's counterpart: ``qapi/block-core.json``; ``block.c``, ``block/write-threshold.c``,
``block/amend.c``, qmp_x_blockdev_change() in ``blockdev.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block.drain import drained
from blkxact.block.graph_change import refresh_limits_above
from blkxact.block.node import BlockNode
from blkxact.block.types import ChildRole
from blkxact.block.write_threshold import WriteThreshold
from blkxact.block_layer import BlockLayer
from blkxact.blockdev.activity import activate, has_active_parent, inactivate
from blkxact.blockdev.amend_job import AmendJob
from blkxact.blockdev.block_graph import describe_graph
from blkxact.errors import QmpError
from blkxact.job.block_job import BlockJob
from blkxact.qapi.block_core import BlockdevChange, BlockdevSetActive, BlockSetWriteThreshold
from blkxact.qapi.blockdev_create import BlockdevAmend
from blkxact.qapi.common import NoArguments

from .command import Command

_AMENDABLE: Final = "qcow2"


def query_block_graph(layer: BlockLayer, args: NoArguments) -> dict[str, Any]:
    """x-debug-query-block-graph."""
    del args
    jobs = [job for job in layer.jobs.values() if isinstance(job, BlockJob)]
    return describe_graph(layer.graph, layer.backends, jobs)


def set_write_threshold(layer: BlockLayer, args: BlockSetWriteThreshold) -> None:
    """block-set-write-threshold, in bytes; 0 is none."""
    node = layer.graph.find(args.node_name)
    if node is None:
        raise QmpError(f"Device '{args.node_name}' not found")
    offset = args.write_threshold
    node.write_threshold = WriteThreshold(offset, layer.emit) if offset else None


async def blockdev_set_active(layer: BlockLayer, args: BlockdevSetActive) -> None:
    """blockdev-set-active: one node with what is below it, or all nodes."""
    if args.node_name is None:
        nodes = layer.graph.tops()
    else:
        found = layer.graph.find(args.node_name)
        if found is None:
            raise QmpError(f"Failed to find node with node-name='{args.node_name}'")
        nodes = [found]
    if args.active:
        await activate(layer.graph, nodes)
        return
    if args.node_name is not None and has_active_parent(nodes[0]):
        raise QmpError("Node has active parent node")
    try:
        await inactivate(layer.graph, nodes)
    except QmpError as error:
        what = "all nodes" if args.node_name is None else "node"
        raise QmpError(f"Failed to inactivate {what}: {error.desc}") from error


async def blockdev_change(layer: BlockLayer, args: BlockdevChange) -> None:
    """x-blockdev-change: a quorum takes another child or loses one."""
    parent = layer.find_node(args.parent)
    if args.child is not None and args.node is not None:
        raise QmpError("The parameters child and node are in conflict")
    if args.child is None and args.node is None:
        raise QmpError("Either child or node must be specified")
    if args.child is not None:
        edge = parent.children.get(args.child)
        if edge is None:
            raise QmpError(f"Node '{args.parent}' does not have child '{args.child}'")
        parent.driver.check_removal()
        async with drained([parent]):
            layer.graph.detach(edge)
            parent.driver.child_removed(edge.name)
            refresh_limits_above(parent)
    if args.node is not None:
        node = layer.graph.find(args.node)
        if node is None:
            raise QmpError(f"Node '{args.node}' not found")
        await _add_child(layer, parent, node)


async def _add_child(layer: BlockLayer, parent: BlockNode, node: BlockNode) -> None:
    driver = parent.driver
    if driver.child_list and node.parents:
        raise QmpError(f"The node {node.node_name} already has a parent")
    name = driver.new_child_name()
    async with drained([parent]):
        try:
            layer.graph.attach(parent, node, name, ChildRole.DATA)
        except QmpError:
            driver.child_removed(name)
            raise
        refresh_limits_above(parent)


def blockdev_amend(layer: BlockLayer, args: BlockdevAmend) -> None:
    """x-blockdev-amend: a job."""
    node = layer.lookup(None, args.node_name)
    if node.driver.format_name != args.options.driver:
        raise QmpError("x-blockdev-amend doesn't support changing the block driver")
    if args.options.driver != _AMENDABLE:
        raise QmpError("Driver does not support x-blockdev-amend")
    job_id = layer.check_job_id(args.job_id)
    txn = layer.own_transaction()
    AmendJob(layer, job_id, txn, layer.graph, node).start()


COMMANDS: Final = [
    Command("block-set-write-threshold", set_write_threshold, BlockSetWriteThreshold),
    Command("blockdev-set-active", blockdev_set_active, BlockdevSetActive),
    Command("x-blockdev-amend", blockdev_amend, BlockdevAmend),
    Command("x-blockdev-change", blockdev_change, BlockdevChange),
    Command("x-debug-query-block-graph", query_block_graph),
]
