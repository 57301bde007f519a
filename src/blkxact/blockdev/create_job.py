"""The job of ``blockdev-create``.

QEMU's counterpart: ``block/create.c``.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack

from blkxact.block.backend import BlockBackend
from blkxact.block.child import Child, Parent
from blkxact.block.node import BlockNode
from blkxact.block.permissions import role_permissions
from blkxact.block.types import ChildRole, Permission
from blkxact.drivers.file import resize_file
from blkxact.drivers.qcow2.create import CreateOptions, complete, validate, write_skeleton
from blkxact.drivers.qcow2.data_file import NAME as DATA_FILE
from blkxact.enums import BlockdevQcow2Version
from blkxact.job.job import Job, JobHost
from blkxact.job.txn import JobTxn
from blkxact.qapi.blockdev import BlockdevOptionsBase
from blkxact.qapi.blockdev_create import BlockdevCreateOptionsFile, BlockdevCreateOptionsQcow2
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
            name = data_node.filename if data_node is not None else None
            await self._create_on(node, data_node, _create_options(options, name))

    async def _open(self, stack: AsyncExitStack, option: str | BlockdevOptionsBase) -> BlockNode:
        """Return a node that is given or still to be opened, held until ``stack`` is left."""
        node = await self._blockdev.open(option)
        self._blockdev.graph.ref(node)
        stack.callback(self._blockdev.graph.unref, node)
        return node

    async def _create_on(
        self, node: BlockNode, data_node: BlockNode | None, options: CreateOptions
    ) -> None:
        """Make the image; raises ``QmpError``.

        As in QEMU others may write to the file, and resize it, until its skeleton is written.
        """
        graph = self._blockdev.graph
        backend = BlockBackend(
            graph, perm=Permission.WRITE | Permission.RESIZE, shared=Permission.ALL
        )
        try:
            backend.insert(node)
            assert backend.root is not None
            await write_skeleton(backend.root, options)
        finally:
            backend.close()
        image = _NewImage(graph.generate_name())
        with ExitStack() as stack:
            children = {"file": self._attach(stack, image, node, "file", data_node is None)}
            if data_node is not None:
                children[DATA_FILE] = self._attach(stack, image, data_node, DATA_FILE, True)
            await complete(children, options)
            await node.flush()

    def _attach(
        self, stack: ExitStack, image: _NewImage, node: BlockNode, name: str, holds_data: bool
    ) -> Child:
        """Let the new image have a child until ``stack`` is left; raises ``QmpError``."""
        role = ChildRole.IMAGE if name == "file" else ChildRole.DATA
        if not holds_data:
            role &= ~ChildRole.DATA
        wanted = Permission.CONSISTENT_READ | Permission.WRITE | Permission.RESIZE
        perm, shared = role_permissions(role, wanted, Permission.ALL, writable=True)
        edge = self._blockdev.graph.attach(image, node, name, role, perm, shared)
        stack.callback(self._blockdev.graph.detach, edge)
        return edge


class _NewImage(Parent):
    """Represents the node through which QEMU works on an image that is being created."""

    def __init__(self, node_name: str) -> None:
        self.node_name = node_name

    def parent_description(self) -> str:
        """Name the node in a message about one of its children."""
        return f"node '{self.node_name}'"


def _create_options(options: BlockdevCreateOptionsQcow2, data_file: str | None) -> CreateOptions:
    """Return the options in the driver's terms; ``data_file`` is the name of that file."""
    return CreateOptions(
        size=options.size,
        version=2 if options.version is BlockdevQcow2Version.V2 else 3,
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
