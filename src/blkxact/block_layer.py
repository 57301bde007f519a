"""One emulator: it owns the nodes, the guest's devices, the jobs and the transactions.

There is no state outside of an instance; a process may hold a thousand of them. ``lock`` orders the
commands of all monitors and the ending of jobs, as the big lock does in QEMU. Jobs and requests of
the guest run between.

QEMU's counterpart: the global state of ``block.c``, ``blockdev.c`` and ``block/block-backend.c``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeGuard

from blkxact.enums import ActionCompletionMode, JobStatus
from blkxact.errors import ErrorClass, QmpError
from blkxact.machine.options import (
    CUT_OFF_INTERVAL_S,
    LETTING_GO_TURNS,
    SHUTDOWN_TIMEOUT_S,
    CommandSet,
)
from blkxact.parts import Parts
from blkxact.qapi.versions import TWO_DRAINS_AT_END, behaves
from blkxact.runtime.steps import yield_turn

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap
    from blkxact.block.backend import BlockBackend
    from blkxact.block.node import BlockNode
    from blkxact.blockdev.opening import NodeDefinition
    from blkxact.job.block_job import BlockJob
    from blkxact.job.ending import Ending
    from blkxact.job.job import Job
    from blkxact.job.txn import JobTxn
    from blkxact.runtime.clock import Timer
    from blkxact.runtime.counts import LayerStatistics

_log = logging.getLogger(__name__)


class BlockLayer(Parts):
    """The block layer of one emulator. Everything from outside is passed in."""

    shutting_down = False
    """The emulator shuts down: no command that changes anything is taken any more."""
    _letting_go = False
    """``shutdown`` itself waits for the nodes that nobody wants any more."""
    _cut_off_timer: Timer | None = None

    def statistics(self) -> LayerStatistics:
        """Return how much there is of everything; after ``shutdown`` all numbers are zero."""
        from blkxact.runtime.counts import LayerStatistics  # noqa: PLC0415 - nobody asks at the start

        nodes = [*self.graph.nodes.values(), *self.graph.unlisted.values()]
        bitmaps = [bitmap for node in nodes for bitmap in node.bitmaps.values()]
        return LayerStatistics(
            nodes=len(nodes),
            requests=sum(node.in_flight for node in nodes),
            devices=len(self.backends),
            jobs=len(self.jobs),
            transactions=len(self.transactions),
            bitmaps=len(bitmaps),
            busy_bitmaps=sum(bitmap.busy for bitmap in bitmaps),
            exports=len(self.exports.query()),
            nbd_clients=len(self.nbd_server.statistics().clients),
            open_files=len(self.storage.open_files),
        )

    # Finding things, with QEMU's refusals.

    def find_backend(self, name: str) -> BlockBackend | None:
        """Return the device of that name, qdev id or QOM path."""
        for backend in self.backends:
            if name and name in (backend.name, backend.qdev_id, backend.qdev_path):
                return backend
        device = self.devices.find(name)
        return device.backend if device is not None else None

    def named_backend(self, name: str) -> BlockBackend | None:
        """Return the device of that name (``blk_by_name``)."""
        return next((one for one in self.backends if one.name == name), None)

    def lookup(self, device: str | None, node_name: str | None) -> BlockNode:
        """Return the medium of a device or else the node of that name (``bdrv_lookup_bs``)."""
        return self.graph.lookup(device, node_name)

    def find_node(self, name: str) -> BlockNode:
        """Return the node that ``name`` means as a device or as a node name."""
        return self.graph.lookup(name, name)

    def find_root(self, name: str) -> BlockNode:
        """Return the node that ``name`` means, if no node or job uses it (qmp_get_root_bs)."""
        node = self.find_node(name)
        if not all(edge.parent.is_backend for edge in node.parents):
            raise QmpError("Need a root block node")
        return node

    def find_bitmap(self, node_name: str, name: str) -> tuple[BlockNode, DirtyBitmap]:
        """Return a bitmap and its node (``block_dirty_bitmap_lookup``)."""
        return self.graph.find_bitmap(node_name, name)

    def find_job(self, job_id: str) -> Job:
        """Return the job (``find_job_locked``)."""
        job = self.jobs.get(job_id)
        if job is None:
            raise QmpError("Job not found")
        return job

    def find_block_job(self, job_id: str) -> BlockJob:
        """Return the block job (``find_block_job_locked``)."""
        job = self.jobs.get(job_id)
        if not _is_block_job(job):
            raise QmpError(f"Block job '{job_id}' not found", ErrorClass.DEVICE_NOT_ACTIVE)
        return job

    def block_jobs_on(self, node: BlockNode) -> list[BlockJob]:
        """Return the block jobs that hold the node, the latest first."""
        holders = [edge.parent for edge in node.parents]
        jobs = reversed(self.jobs.values())
        return [job for job in jobs if _is_block_job(job) and job in holders]

    # Opening.

    async def add_node(self, options: NodeDefinition) -> None:
        """Make a node (blockdev-add); called without the lock. Raises ``QmpError``.

        Images may be on a server that does not answer, so other commands run meanwhile, but for
        an image that gets a node of another command as its child.
        """
        from blkxact.blockdev.opener import NamedNodeError  # noqa: PLC0415 - loaded with ``blockdev``

        opened = asyncio.get_running_loop().create_future()
        self._openings.append(opened)
        try:
            await self.blockdev.add_apart(options, self._command)
        except NamedNodeError:
            async with self._command():
                await self.blockdev.add(options)
        finally:
            self._openings.remove(opened)
            opened.set_result(None)

    @asynccontextmanager
    async def _command(self) -> AsyncIterator[None]:
        """Hold the lock for a command that changes something."""
        async with self.lock:
            self.check_running()
            yield

    def check_running(self) -> None:
        """Raise ``QmpError`` if the emulator is shutting down."""
        if self.shutting_down:
            raise QmpError("The emulator is shutting down")

    # Jobs and transactions.

    def name_job(self, job_id: str | None, node: BlockNode) -> str:
        """Return the id of a new job, by default the node's device's; raises ``QmpError``."""
        return self.check_job_id(node.root_device_name if job_id is None else job_id)

    def check_job_id(self, name: str) -> str:
        """Return ``name`` if a new job can have it as its id; raises ``QmpError``."""
        from blkxact.block.names import is_well_formed  # noqa: PLC0415 - loaded with the first node

        if not is_well_formed(name):
            raise QmpError(f"Invalid job ID '{name}'")
        if name in self.jobs:
            raise QmpError(f"Job ID '{name}' already in use")
        return name

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[None]:
        """Hold the lock while a job ends.

        Only one ending waits for the lock at a time, so that the commands of monitors take turns
        with the endings of a thousand jobs instead of queueing after them.
        """
        async with self._endings, self.lock:
            yield

    def add_job(self, job: Job) -> None:
        """List a new job."""
        assert job.id is not None
        self.jobs[job.id] = job

    def forget_job(self, job: Ending) -> None:
        """Take a job that is dismissed off the list."""
        if job.id is not None:
            self.jobs.pop(job.id, None)

    def begin_transaction(self, mode: ActionCompletionMode | None, txn_id: str | None) -> JobTxn:
        """Return a completion object, listed until it is over."""
        from blkxact.job.txn import JobTxn  # noqa: PLC0415 - loaded with the first transaction

        if txn_id is not None and any(txn.id == txn_id for txn in self.transactions):
            raise QmpError(f"Transaction ID '{txn_id}' already in use")
        txn = JobTxn(
            mode or self.default_completion_mode,
            txn_id,
            on_over=self._transaction_over,
            trace=self.trace,
            points=self.points,
        )
        self.transactions.append(txn)
        return txn

    def own_transaction(self) -> JobTxn:
        """Return the transaction of a job that is started by a command of its own."""
        from blkxact.job.txn import JobTxn  # noqa: PLC0415 - as above

        return JobTxn(trace=self.trace, points=self.points)

    def _transaction_over(self, txn: JobTxn) -> None:
        self.transactions.remove(txn)
        if txn.id is not None and txn.launched:
            self._completed.append(txn)

    async def flush_all(self) -> None:
        """Flush every disk, and wait (``bdrv_flush_all``); what fails is left to later flushes."""
        for node in list(self.graph.nodes.values()) if self.has("graph") else ():
            if node.is_open:
                with suppress(OSError):
                    await node.flush()

    # Shutting down.

    async def close_unused_nodes(self) -> None:
        """Wait until the nodes that nobody wants any more are closed.

        Then report the transactions that are over: a client that receives the event can open the
        targets. At the end of the emulator nobody can, and no job waits for a node that may be
        another's.
        """
        if self._letting_go:
            self.graph.sweep()
            return
        await self.blockdev.close_unused()
        while self._completed:
            self.emit("TRANSACTION_COMPLETED", self._completed.pop(0).report())

    @property
    def ended_well(self) -> bool:
        """Whether everything was stored, and no server was cut off."""
        return not self.cut_off_nodes and not (self.has("graph") and self.graph.lost_data)

    def begin_shutdown(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Resume delayed requests; from now on servers have ``timeout_s`` to answer.

        ``shutdown`` does the rest. A second call does nothing.
        """
        if self.shutting_down:
            return
        self.shutting_down = True
        if not self.has("graph"):
            return
        self.throttle_groups.let_go()
        self.graph.yank.cancel_in_flight()
        self._cut_off_timer = self.clock.call_later(timeout_s, self.cut_off)

    def cut_off(self) -> None:
        """Cut the connections whose server has not answered, now and every few seconds from now."""
        if self._cut_off_timer is not None:
            self._cut_off_timer.cancel()
        if not self.has("graph"):
            return
        for name in self.graph.yank.cut_off():
            _log.warning("node '%s': the server does not answer; the connection is cut", name)
            self.cut_off_nodes.append(name)
        self._cut_off_timer = self.clock.call_later(CUT_OFF_INTERVAL_S, self.cut_off)

    async def shutdown(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """End exports and jobs, settle all bitmaps, close all nodes (``qemu_cleanup``).

        Each disk is closed as soon as nothing uses it, so that one whose server does not answer
        holds up no other. What has not answered after ``timeout_s`` is cut off.
        """
        self.begin_shutdown(timeout_s)
        if not self.has("graph"):
            return
        try:
            await self._end_users()
            await self._leave_to_commands()
            for job in list(self.jobs.values()):
                job.user_dismiss()
            self.graph.release_all()
            await self.blockdev.close_unused()
            self._letting_go = False
            await self.close_unused_nodes()
        finally:
            if self._cut_off_timer is not None:
                self._cut_off_timer.cancel()

    def sever(self) -> None:
        """Cut all connections at once; nothing can be used any more."""
        if self.has("nbd_server"):
            self.nbd_server.sever()
        if self.has("graph"):
            self.graph.yank.cut_all()
        self.descriptors.close_all()

    async def _end_users(self) -> None:
        """End everything that uses nodes; return when it has ended."""
        users: list[asyncio.Future[Any]] = [*self._openings]
        if self.has("nbd_server"):
            users.append(asyncio.ensure_future(self.nbd_server.close()))
        async with self.lock:
            self._letting_go = True
            users += [asyncio.ensure_future(self._close_backend(one)) for one in self.backends]
            self.graph.release_monitor_owned()
            for _ in range(self._drains_at_end()):
                for job in self.jobs.values():
                    job.report_drain()
            for job in list(self.jobs.values()):
                # The end of one job of a group is that of all; some are dismissed by then.
                if job.status not in (JobStatus.CONCLUDED, JobStatus.NULL):
                    await job.cancel()
            users += [asyncio.ensure_future(job.wait()) for job in self.jobs.values()]
        await asyncio.gather(*users)

    def _drains_at_end(self) -> int:
        has_machine = self.command_set is not CommandSet.STORAGE_DAEMON
        return 2 if has_machine and behaves(TWO_DRAINS_AT_END, self.release) else 1

    async def _leave_to_commands(self) -> None:
        """Wait until no command uses a node any more."""
        turns = 0
        while turns < LETTING_GO_TURNS and (roots := self.graph.roots()):
            turns += 1
            for root in roots:
                if not root.is_idle():
                    turns = 0
                    await root.idle()
            await yield_turn()

    async def _close_backend(self, backend: BlockBackend) -> None:
        """Take the guest's device away when its requests are over; no more begin."""
        backend.quiesce()
        await backend.idle()
        backend.close()
        backend.resume()
        self.backends.remove(backend)


def _is_block_job(job: Job | None) -> TypeGuard[BlockJob]:
    from blkxact.job.block_job import BlockJob as Kind  # noqa: PLC0415 - loaded with the first of them

    return isinstance(job, Kind)
