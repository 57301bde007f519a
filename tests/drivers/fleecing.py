"""A disk in memory with a copy-before-write filter above it and a reader of its point in time."""

from __future__ import annotations

import asyncio
from typing import Any

from blkxact.block.backend import BlockBackend
from blkxact.block.types import ChildRole, Permission
from blkxact.drivers.copy_before_write import CopyBeforeWriteDriver
from blkxact.drivers.snapshot_access import SnapshotAccessDriver
from tests.environment import options_of
from tests.memory_disks import KIB, MemoryDisks

CLUSTER = 64 * KIB
LENGTH = 16 * CLUSTER


class StillClock:
    """A clock whose sleepers wake when the test says so."""

    def __init__(self) -> None:
        self.alarm = asyncio.Event()

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await self.alarm.wait()


class Fleecing:
    """``guest`` writes through ``cbw`` to ``source``; ``reader`` sees the point in time."""

    def __init__(self, clock: Any = None, length: int = LENGTH) -> None:
        self.disks = MemoryDisks(clock or StillClock())
        self.graph = self.disks.graph
        self.source = self.disks.disk("source", length)
        self.target = self.disks.disk("target", length)

    async def open(self, **options: Any) -> Fleecing:
        cbw = self.disks.filter_node("cbw", {"file": "source", "target": "target"})
        given = options_of(CopyBeforeWriteDriver, cbw.children, **options)
        self.cbw = await CopyBeforeWriteDriver.open(self.disks.context("cbw"), given, cbw.children)
        self.disks.opened(cbw, self.cbw)
        self.guest = self.disks.guest("cbw")
        access = self.disks.filter_node("access", {})
        file_role = ChildRole.DATA | ChildRole.PRIMARY
        self.graph.attach(access, cbw, "file", file_role)
        driver = await SnapshotAccessDriver.open(
            self.disks.context("access"),
            options_of(SnapshotAccessDriver, access.children),
            access.children,
        )
        self.disks.opened(access, driver)
        access.discard = True
        cbw.discard = self.graph.nodes["target"].discard = True
        perm = Permission.CONSISTENT_READ | Permission.WRITE  # to discard
        self.reader = BlockBackend(self.graph, perm=perm)
        self.reader.insert(access)
        return self
