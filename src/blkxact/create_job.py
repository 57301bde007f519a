"""The job of ``blockdev-create``.

QEMU's counterpart: ``block/create.c``.
"""

from __future__ import annotations

from typing import Any

from .block.backend import BlockBackend
from .block.driver_api import Permission
from .blockdev import Blockdev
from .drivers.qcow2.create import CreateOptions, create
from .errors import QmpError, strerror
from .image_create import create_file
from .job import Job, JobHost
from .job_txn import JobTxn
from .qapi.blockdev import BlockdevCreateOptionsFile, BlockdevCreateOptionsQcow2


class CreateJob(Job):
    """Makes what ``options`` (a BlockdevCreateOptions) describe. It is dismissed by the client."""

    type_name = "create"

    def __init__(
        self, host: JobHost, job_id: str | None, txn: JobTxn, blockdev: Blockdev, options: Any
    ) -> None:
        self._blockdev = blockdev
        self._options = options
        super().__init__(host, job_id, txn, auto_dismiss=False)

    async def run(self) -> None:
        """Create; raises ``QmpError``."""
        self.total_progress = 1
        match self._options:
            case BlockdevCreateOptionsFile() as options:
                await self._create_file(options)
            case BlockdevCreateOptionsQcow2() as options:
                await self._create_qcow2(options)
            case options:
                raise QmpError(f"Driver '{options.driver}' does not support blockdev-create")
        self.current_progress = 1

    async def _create_file(self, options: BlockdevCreateOptionsFile) -> None:
        file = await create_file(self._blockdev.storage, options.filename)
        try:
            await file.truncate(options.size)
        except OSError as error:
            raise QmpError(f"Could not resize file: {strerror(error)}") from error
        finally:
            await file.close()

    async def _create_qcow2(self, options: BlockdevCreateOptionsQcow2) -> None:
        if options.data_file is not None:
            raise QmpError("External data files are not supported yet")
        file = options.file
        node = await self._blockdev.open(file if isinstance(file, str) else file.to_wire())
        backend = BlockBackend(
            self._blockdev.graph,
            perm=Permission.WRITE | Permission.RESIZE,
            shared=Permission.ALL,
        )
        backend.write_beyond_end = True
        backend.insert(node)
        try:
            assert backend.root is not None
            if not node.driver.holds_new_images:  # a server has decided on the length
                await backend.root.truncate(0)
            await create(
                backend.root,
                CreateOptions(
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
                ),
            )
        finally:
            backend.close()
