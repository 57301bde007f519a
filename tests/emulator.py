"""A whole emulator without sockets: commands in, results and events out, files in memory."""

from __future__ import annotations

import inspect
import random
from typing import Any

from blkxact.block.backend import BlockBackend
from blkxact.block_layer import BlockLayer
from blkxact.blockdev.image_create import create_image
from blkxact.commands import Dispatcher
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.events import Event, EventSink
from blkxact.runtime.release import RELEASES
from blkxact.testing.memory_file import MemoryStorage

from .results import check_result

KIB = 1024
MIB = 1 << 20
SIZE = 512 * KIB
"""Of an image that ``create`` makes."""


class Emulator:
    """One emulator over ``storage``; ``events`` are those it has sent."""

    def __init__(self, storage: MemoryStorage | None = None) -> None:
        self.storage = storage or MemoryStorage(random.Random(1))
        clock = SystemClock()
        self.events: list[Event] = []
        sink = EventSink(clock)
        sink.subscribe(self.events.append)
        self.use(BlockLayer(self.storage, clock, sink, rng=random.Random(2)))

    def use(self, layer: BlockLayer) -> None:
        """Send commands to this layer."""
        self.layer = layer
        self._dispatcher = Dispatcher(layer)

    def emulate(self, version: str) -> None:
        """Be this release of QEMU from now on: ``7.2``, ``10.0``..."""
        self.layer.release = RELEASES[version]
        self.use(self.layer)

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command; keyword arguments have underscores for dashes. Raises ``QmpError``."""
        members = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await self.execute_wire(command, members)

    async def execute_wire(self, command: str, members: dict[str, Any]) -> Any:
        """Run a command whose arguments are as on the wire. Raises ``QmpError``."""
        result = self._dispatcher.execute(command, members)
        if inspect.isawaitable(result):
            result = await result
        check_result(command, result, self.layer.release)
        return result

    # Disks

    async def create(self, path: str, fmt: str = "qcow2", size: int = SIZE) -> None:
        """Make an image."""
        await create_image(self.layer.blockdev, path, fmt, size=size)

    async def create_disk(self, name: str, size: int = 8 * MIB) -> None:
        """Make the image ``/NAME.qcow2``."""
        await self.create(f"/{name}.qcow2", size=size)

    async def open(self, node: str, path: str, fmt: str = "qcow2", **options: Any) -> None:
        """Open an image as a node."""
        file = {"driver": "file", "filename": path}
        await self.execute("blockdev-add", driver=fmt, node_name=node, file=file, **options)

    async def add_disk(self, name: str, **options: Any) -> None:
        """Open the image ``/NAME.qcow2`` as node ``name``."""
        await self.open(name, f"/{name}.qcow2", **options)

    async def disk(self, name: str, fmt: str = "qcow2", **options: Any) -> BlockBackend:
        """Make an image, open it as node ``name`` and plug it into the guest."""
        path = f"/{name}.{fmt}"
        await self.create(path, fmt)
        await self.open(name, path, fmt, **options)
        return self.plug(name)

    # The guest

    def plug(self, node: str) -> BlockBackend:
        """Give a node to the guest as the device ``guest-NODE``."""
        self.layer.devices.add({"driver": "scsi-hd", "id": f"guest-{node}", "drive": node})
        backend = self.layer.find_backend(f"guest-{node}")
        assert backend is not None
        return backend

    async def qemu_io(self, node: str, line: str) -> str:
        """Let the guest do something through a device; or do it on a node."""
        where = f"-d {node}" if self.layer.find_backend(node) else node
        return await self.hmp(f'qemu-io {where} "{line}"')

    async def hmp(self, line: str) -> str:
        """Send a line to the human monitor; return what it prints."""
        text: str = await self.execute("human-monitor-command", command_line=line)
        return text

    # What has happened

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the data of all events of that name so far."""
        return [one.get("data", {}) for one in self.events if one["event"] == event]

    def bitmaps(self, node: str) -> dict[str, dict[str, Any]]:
        """Return BlockDirtyInfo by name."""
        found = self.layer.find_node(node).bitmaps.values()
        return {str(bitmap.name): bitmap.describe() for bitmap in found}

    async def jobs_over(self) -> None:
        """Wait for the work and the ending of all jobs."""
        for job in list(self.layer.jobs.values()):
            await job.wait()
