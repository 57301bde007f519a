"""A whole emulator without sockets: commands in, results and events out, files in memory."""

from __future__ import annotations

import inspect
import random
from typing import Any

import pytest

from blkxact.block_layer import BlockLayer
from blkxact.blockdev.image_create import create_image
from blkxact.clock import SystemClock
from blkxact.commands import Dispatcher
from blkxact.events import Event, EventSink
from blkxact.testing.memory_file import MemoryStorage

MIB = 1 << 20


class House:
    """One emulator over ``storage``."""

    def __init__(self, storage: MemoryStorage | None = None) -> None:
        self.storage = storage or MemoryStorage(random.Random(1))
        clock = SystemClock()
        self.events: list[Event] = []
        sink = EventSink(clock)
        sink.subscribe(self.events.append)
        self.use(BlockLayer(self.storage, clock, sink, rng=random.Random(2)))

    def use(self, layer: BlockLayer) -> None:
        """Send commands to this emulator."""
        self.layer = layer
        self._dispatcher = Dispatcher(layer)

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command; keyword arguments have underscores for dashes. Raises ``QmpError``."""
        members = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await self.execute_wire(command, members)

    async def execute_wire(self, command: str, members: dict[str, Any]) -> Any:
        """Run a command whose arguments are as on the wire. Raises ``QmpError``."""
        result = self._dispatcher.execute(command, members)
        return await result if inspect.isawaitable(result) else result

    async def create_disk(self, name: str, size: int = 8 * MIB) -> None:
        """Create ``name``.qcow2 with blockdev-create's means."""
        await create_image(self.layer.blockdev, f"/{name}.qcow2", "qcow2", size=size)

    async def add_disk(self, name: str, **options: Any) -> None:
        """Open ``/name.qcow2`` as node ``name``."""
        file = {"driver": "file", "filename": f"/{name}.qcow2"}
        await self.execute("blockdev-add", driver="qcow2", node_name=name, file=file, **options)

    async def qemu_io(self, node: str, line: str) -> str:
        """Let the guest do something."""
        return await self.execute("human-monitor-command", command_line=f'qemu-io {node} "{line}"')

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


@pytest.fixture
def house() -> House:
    """Return a fresh emulator."""
    return House()
