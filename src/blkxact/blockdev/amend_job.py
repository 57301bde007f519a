"""The job of ``x-blockdev-amend``.

Only encryption can be amended, which images here do not have: there is nothing to do.

QEMU's counterpart: ``block/amend.c``.
"""

from __future__ import annotations

from blkxact.block.graph import Graph
from blkxact.block.node import BlockNode
from blkxact.enums import JobStatus
from blkxact.job.job import Job, JobHost
from blkxact.job.txn import JobTxn


class AmendJob(Job):
    """Holds the node until it is dismissed by the client."""

    type_name = "amend"

    def __init__(
        self, host: JobHost, job_id: str, txn: JobTxn, graph: Graph, node: BlockNode
    ) -> None:
        super().__init__(host, job_id, txn, auto_dismiss=False)
        self._graph = graph
        self._node = graph.ref(node)

    async def run(self) -> None:
        """Do nothing."""
        self.total_progress = 1
        self.current_progress = 1

    def set_status(self, status: JobStatus) -> None:
        """Let go of the node when the job is dismissed."""
        super().set_status(status)
        if status is JobStatus.NULL:
            self._graph.unref(self._node)
