"""Commands on nodes that few clients use.

QEMU's counterpart: ``qapi/block-core.json``; ``block.c``, ``block/write-threshold.c``,
``block/amend.c``, qmp_x_blockdev_change() in ``blockdev.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block.write_threshold import WriteThreshold
from blkxact.block_layer import BlockLayer
from blkxact.blockdev.amend_job import AmendJob
from blkxact.blockdev.block_graph import describe_graph
from blkxact.errors import QmpError
from blkxact.job.block_job import BlockJob
from blkxact.qapi.block_core import BlockdevChange, BlockSetWriteThreshold
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


def blockdev_change(layer: BlockLayer, args: BlockdevChange) -> None:
    """x-blockdev-change: no driver here takes or gives away children."""
    parent = layer.find_node(args.parent)
    if args.child is not None and args.node is not None:
        raise QmpError("The parameters child and node are in conflict")
    if args.child is None and args.node is None:
        raise QmpError("Either child or node must be specified")
    if args.child is not None and args.child not in parent.children:
        raise QmpError(f"Node '{args.parent}' does not have child '{args.child}'")
    if args.node is not None and layer.graph.find(args.node) is None:
        raise QmpError(f"Node '{args.node}' not found")
    change = "removing" if args.child is not None else "adding"
    raise QmpError(f"The node {parent.device_or_node_name} does not support {change} a child")


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
    Command("x-blockdev-amend", blockdev_amend, BlockdevAmend),
    Command("x-blockdev-change", blockdev_change, BlockdevChange),
    Command("x-debug-query-block-graph", query_block_graph),
]
