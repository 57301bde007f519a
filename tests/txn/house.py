"""A whole emulator over a storage in memory, spoken to by commands, for tests of a few lines."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from blkxact.block.backend import BlockBackend
from blkxact.block_layer import BlockLayer
from blkxact.clock import SystemClock
from blkxact.commands import Dispatcher
from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.events import Event, EventSink
from blkxact.testing.memory_file import MemoryStorage

KIB = 1024
SIZE = 512 * KIB


class House:
    """One emulator; ``events`` is what it told."""

    def __init__(self, storage: MemoryStorage | None = None) -> None:
        self.storage = storage or MemoryStorage()
        self.events: list[Event] = []
        sink = EventSink(SystemClock())
        sink.subscribe(self.events.append)
        self.layer = BlockLayer(self.storage, SystemClock(), sink, rng=random.Random(1))

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Execute a command; ``_`` in a name stands for ``-``. Raises ``QmpError``."""
        wired = {name.replace("_", "-"): value for name, value in arguments.items()}
        result = Dispatcher(self.layer).execute(command, wired)
        return await result if asyncio.iscoroutine(result) else result

    async def create(self, path: str, fmt: str = "qcow2", size: int = SIZE) -> None:
        """Make an image."""
        file = await self.storage.create(path)
        if fmt == "raw":
            await file.truncate(size)
        else:
            await create(StorageChild(file), CreateOptions(size))
        await file.close()

    async def open(self, node: str, path: str, fmt: str = "qcow2", **options: Any) -> None:
        """Open an image as a node."""
        file = {"driver": "file", "filename": path}
        await self.execute("blockdev-add", driver=fmt, node_name=node, file=file, **options)

    async def disk(self, name: str, fmt: str = "qcow2", **options: Any) -> BlockBackend:
        """Make an image, open it as node ``name`` and plug it into the guest."""
        path = f"/{name}.{fmt}"
        await self.create(path, fmt)
        await self.open(name, path, fmt, **options)
        return self.plug(name)

    def plug(self, node: str) -> BlockBackend:
        """Give a node to the guest as the device ``guest-NODE``."""
        self.layer.devices.add({"driver": "scsi-hd", "id": f"guest-{node}", "drive": node})
        backend = self.layer.find_backend(f"guest-{node}")
        assert backend is not None
        return backend

    async def jobs_over(self) -> None:
        """Return when all jobs have done their work."""
        for job in list(self.layer.jobs.values()):
            await job.wait()

    def told(self, name: str) -> list[dict[str, Any]]:
        """Return the data of the events of that name."""
        return [event.get("data", {}) for event in self.events if event["event"] == name]
