"""Starting a mirror: from a source and a target to a running job.

QEMU's counterpart: mirror_start_job() in ``block/mirror.c``.
"""

from __future__ import annotations

from collections.abc import Mapping

from blkxact.block.chain import chain_nodes, skip_filters
from blkxact.block.child import Child
from blkxact.block.drain import drained
from blkxact.block.insert_filter import drop_filter, open_filter
from blkxact.block.node import BlockNode
from blkxact.block.open_context import OpenContext
from blkxact.blockdev.blockdev import Blockdev
from blkxact.errors import QmpError
from blkxact.job.job import JobHost
from blkxact.job.txn import JobTxn

from .active_commit import ActiveCommitJob
from .job import MirrorJob
from .options import MirrorOptions
from .top import MirrorTopDriver

DEFAULT_BUF_SIZE = 16 << 20


def check_buf_size(buf_size: int, granularity: int) -> int:
    """Return the size of the buffer in whole granules; 0 is the default. Raises ``QmpError``."""
    if buf_size < 0:
        raise QmpError("Invalid parameter 'buf-size'")
    return -(-(buf_size or DEFAULT_BUF_SIZE) // granularity) * granularity


async def start_mirror(
    host: JobHost,
    blockdev: Blockdev,
    job_id: str | None,
    txn: JobTxn,
    options: MirrorOptions,
    *,
    source: BlockNode,
    target: BlockNode,
) -> MirrorJob:
    """Put the filter above ``source`` and start the job.

    A target in the chain of the source makes an active commit. Raises ``QmpError`` with everything
    as it was.
    """
    if skip_filters(source) is skip_filters(target):
        raise QmpError("Can't mirror node into itself")
    into_base = target in chain_nodes(source)
    top = await _insert_top(blockdev, source, options.filter_node_name, into_base=into_base)
    job: MirrorJob | None = None
    try:
        job_type = ActiveCommitJob if into_base else MirrorJob
        name = host.name_job(job_id, top)
        job = job_type(host, name, txn, options, blockdev=blockdev, top=top, target=target)
        job.set_up()
    except BaseException:
        async with drained([source]):
            if job is not None:
                await job.early_fail()
            else:
                drop_filter(blockdev.graph, top)
        await blockdev.graph.settled()
        raise
    job.start()
    return job


async def _insert_top(
    blockdev: Blockdev, source: BlockNode, name: str | None, *, into_base: bool
) -> BlockNode:
    async def make(context: OpenContext, children: Mapping[str, Child]) -> MirrorTopDriver:
        return MirrorTopDriver(context, children, into_base=into_base)

    graph = blockdev.graph
    top = await open_filter(graph, MirrorTopDriver, {"backing": source}, name, make=make)
    top.implicit = name is None
    top.never_freeze = True  # it can always be taken out
    try:
        async with drained([source]):
            graph.insert_filter(source, top)
    except BaseException:
        graph.unref(top)
        await graph.settled()
        raise
    return top
