"""The job of ``blockdev-create``.

QEMU's counterpart: ``block/create.c``.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from blkxact.block.backend import BlockBackend
from blkxact.block.driver_api import Permission
from blkxact.block.node import BlockNode
from blkxact.drivers.file import resize_file
from blkxact.drivers.qcow2.create import CreateOptions, create, validate
from blkxact.job.job import Job, JobHost
from blkxact.job.txn import JobTxn
from blkxact.qapi.blockdev_create import BlockdevCreateOptionsFile, BlockdevCreateOptionsQcow2
from blkxact.qapi.common import QapiModel
from blkxact.storage.file_hints import FileHints

from .blockdev import Blockdev
from .image_create import create_file


class CreateJob(Job):
    """Makes what ``options`` (a BlockdevCreateOptions) describe. It is dismissed by the client."""

    type_name = "create"

    def __init__(
        self,
        host: JobHost,
        job_id: str | None,
        txn: JobTxn,
        blockdev: Blockdev,
        options: BlockdevCreateOptionsFile | BlockdevCreateOptionsQcow2,
    ) -> None:
        self._blockdev = blockdev
        self._options = options
        super().__init__(host, job_id, txn, auto_dismiss=False)

    async def run(self) -> None:
        """Create; raises ``QmpError``."""
        self.total_progress = 1
        try:
            if isinstance(self._options, BlockdevCreateOptionsFile):
                await self._create_file(self._options)
            else:
                await self._create_qcow2(self._options)
        finally:
            self.current_progress = 1  # QEMU's counts a failure, too

    async def _create_file(self, options: BlockdevCreateOptionsFile) -> None:
        hints = FileHints(options.nocow, options.extent_size_hint)
        file = await create_file(self._blockdev.storage, options.filename, hints)
        try:
            await resize_file(file, options.size, options.preallocation)
        finally:
            await file.close()

    async def _create_qcow2(self, options: BlockdevCreateOptionsQcow2) -> None:
        async with AsyncExitStack() as stack:
            node = await self._open(stack, options.file)
            # QEMU judges the options before it asks anybody for permissions.
            validate(_create_options(options, None if options.data_file is None else ""))
            data_node = None
            if options.data_file is not None:
                data_node = await self._open(stack, options.data_file)
            file = self._target(stack, node)
            data_file = None if data_node is None else self._target(stack, data_node)
            await self._create_on(file, data_file, options)

    async def _open(self, stack: AsyncExitStack, option: str | QapiModel) -> BlockNode:
        """Return a node that is given or still to be opened, held until ``stack`` is left."""
        node = await self._blockdev.open(option if isinstance(option, str) else option.to_wire())
        self._blockdev.graph.ref(node)
        stack.callback(self._blockdev.graph.unref, node)
        return node

    def _target(self, stack: AsyncExitStack, node: BlockNode) -> BlockBackend:
        """Return a way into a node, closed when ``stack`` is left; raises ``QmpError``."""
        backend = BlockBackend(
            self._blockdev.graph,
            perm=Permission.WRITE | Permission.RESIZE,
            shared=Permission.ALL,
        )
        stack.callback(backend.close)
        backend.write_beyond_end = True
        backend.insert(node)
        return backend

    async def _create_on(
        self,
        file: BlockBackend,
        data_file: BlockBackend | None,
        options: BlockdevCreateOptionsQcow2,
    ) -> None:
        assert file.root is not None
        data_node = data_file.node if data_file else None
        node = file.root.node
        if not node.driver.holds_new_images:  # a server has decided on the length
            await file.root.truncate(0)
        await create(
            file.root,
            _create_options(options, data_node.filename if data_node else None),
            data_file.root if data_file else None,
        )


def _create_options(options: BlockdevCreateOptionsQcow2, data_file: str | None) -> CreateOptions:
    """Return the options in the driver's terms; ``data_file`` is the name of that file."""
    return CreateOptions(
        size=options.size,
        version=2 if options.version == "v2" else 3,
        cluster_size=options.cluster_size,
        refcount_bits=options.refcount_bits,
        lazy_refcounts=options.lazy_refcounts,
        backing_file=options.backing_file,
        backing_format=options.backing_fmt,
        preallocation=options.preallocation,
        compression_type=options.compression_type,
        extended_l2=options.extended_l2,
        data_file=data_file,
        data_file_raw=options.data_file_raw,
    )
