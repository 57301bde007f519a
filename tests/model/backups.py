"""The backups of a plan: where they go, and where each can be read back when it is good."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from .bitmaps import Chain, ModelBitmap
from .disks import KIB, ModelNode
from .jobs import ModelJob
from .world import World

TARGET_EVENTS = [
    "pwritev",
    "write_aio",
    "l2_update",
    "cluster_alloc",
    "pwritev_zero",
    "refblock_alloc",
]


class Backups:
    """What a ``Plan`` knows of backups."""

    world: World
    rng: random.Random
    mode: str
    jobs: list[ModelJob]
    states: dict[tuple[str, str], str]
    sure: bool
    moved: set[str]
    pick_node: Callable[[], ModelNode]
    doom: Callable[..., None]
    add: Callable[[str, dict[str, Any], Callable[[], None]], None]

    async def add_backup(
        self, node: ModelNode | None = None, sync: str | None = None, name: str | None = None
    ) -> None:
        """Add ``drive-backup`` or ``blockdev-backup``, as told or by chance."""
        rng = self.rng
        told = node is not None
        node = node or self.pick_node()
        sync = sync or self._choose_sync(node)
        data: dict[str, Any] = {
            "job-id": f"j{self.world.number()}",
            "device": node.name,
            "sync": sync,
        }
        if not told:
            name = self._choose_bitmap(node, sync, data)
        elif name is not None:
            data |= {"bitmap": name}
            self.states[node.name, name] = "frozen"
        self._choose_policies(data)
        job = ModelJob(
            data["job-id"],
            node.name,
            "bitmap" if sync == "incremental" else sync,
            None,
            data.get("bitmap-mode", "on-success") if name else None,
            f"/t{self.world.number()}",
            (),
            complete_chain=False,
            auto_finalize=data.get("auto-finalize", True),
            auto_dismiss=data.get("auto-dismiss", True),
        )
        if rng.random() < 0.5:
            kind = "drive-backup"
            await self._drive_target(job, node, data, name)
        else:
            kind = "blockdev-backup"
            await self._node_target(job, node, data)
        if self.mode == "grouped" and sync == "none":
            self.sure = False
        self.jobs.append(job)
        self.add(kind, data, lambda: self._start(job, node, name))

    def _choose_sync(self, node: ModelNode) -> str:
        sync = self.rng.choice(["full", "full", "top", "none", *["incremental", "bitmap"] * 2])
        there = [name for where, name in self.states if where == node.name]
        if sync in ("incremental", "bitmap") and not there and self.rng.random() < 0.9:
            return "full"
        return sync

    def _start(self, job: ModelJob, node: ModelNode, name: str | None) -> None:
        """The job's point in time is now."""
        job.snapshot = node.contents.copy()
        if name is not None:
            bitmap = node.bitmaps[name]
            job.bitmap = bitmap
            job.initial = bitmap.must
            bitmap.freeze(job)
        job.chain, job.complete_chain = self._chain(job, node)
        for bitmap in node.bitmaps.values():
            fresh = not bitmap.may and not bitmap.frozen and bitmap.base is None
            if fresh and name is None and job.sync in ("full", "top") and bitmap.enabled:
                bitmap.pending = job

    def _chain(self, job: ModelJob, node: ModelNode) -> tuple[Chain, bool]:
        """Return where the backup can be read, and whether all of the disk is there."""
        head: Chain = ((job.path, job.path.rpartition(".")[2]),)
        if job.sync == "full":
            return head, True
        if job.sync == "top":
            return head + (node.backing.chain() if node.backing else ()), True
        if job.bitmap is not None and job.bitmap.base is not None and head[0][1] == "qcow2":
            return head + job.bitmap.base, True
        return head, False

    def _choose_bitmap(self, node: ModelNode, sync: str, data: dict[str, Any]) -> str | None:
        rng = self.rng
        needed = sync in ("incremental", "bitmap")
        if not needed and (sync == "none" or rng.random() < 0.8):
            return None
        there = [name for where, name in self.states if where == node.name]
        free = [name for name in there if self._may_freeze(node, name)]
        name = "nosuch"
        if free and rng.random() < 0.95:
            name = rng.choice(free)
        elif there:
            name = rng.choice(there)
        data["bitmap"] = name
        if name not in there:
            self.doom("no such bitmap")
        elif self.states[node.name, name] == "inconsistent":
            self.doom("an inconsistent bitmap")
        elif name not in free:
            busy = self.states[node.name, name] == "busy"
            self.doom("a busy bitmap", (node.name, name) if busy else None)
        modes = ["on-success", "always"] if sync in ("full", "top") else []
        modes = modes or (["on-success"] if sync == "incremental" else [])
        data["bitmap-mode"] = rng.choice(modes or ["on-success", "never", "always"])
        if rng.random() < 0.03:
            data["bitmap-mode"] = "never"
            if sync != "bitmap":
                self.doom("bitmap-mode")
        if self.states.get((node.name, name)) == "ok":
            self.states[node.name, name] = "frozen"
        self.sure &= any(disk.top is node for disk in self.world.disks)
        return name

    def _may_freeze(self, node: ModelNode, name: str) -> bool:
        return self.states.get((node.name, name)) in ("ok", "frozen")

    def _choose_policies(self, data: dict[str, Any]) -> None:
        rng = self.rng
        policies = ["report", "report", "ignore", "enospc", "stop", "auto"]
        for name in ("on-source-error", "on-target-error"):
            if rng.random() < 0.5:
                data[name] = rng.choice(policies)
        for name in ("auto-finalize", "auto-dismiss"):
            if rng.random() < 0.25:
                data[name] = False
        if rng.random() < 0.3:
            data["speed"] = rng.choice([1 << 18, 1 << 20, 1 << 23])
        if rng.random() < 0.2:
            data["x-perf"] = {"max-workers": rng.choice([1, 2, 64])}

    async def _drive_target(
        self, job: ModelJob, node: ModelNode, data: dict[str, Any], name: str | None
    ) -> None:
        rng, world = self.rng, self.world
        fmt = "qcow2"
        if job.sync == "full" and rng.random() < 0.3:
            fmt = "raw"
        if job.sync == "none" and self.jobs:
            self.sure = False
        job.path += f".{fmt}"
        data |= {"target": job.path, "format": fmt}
        existing = rng.random() < 0.3
        if existing:
            data["mode"] = "existing"
            await self._create(job, node, fmt)
        if rng.random() < 0.03:
            data["target"] = f"/nosuch/{node.name}"
            data["mode"] = "existing"
            self.doom("no such file")
        del name, world

    async def _node_target(self, job: ModelJob, node: ModelNode, data: dict[str, Any]) -> None:
        rng, world = self.rng, self.world
        fmt = "qcow2"
        if job.sync in ("full", "none") and rng.random() < 0.3:
            fmt = "raw"
        job.path += f".{fmt}"
        await self._create(job, node, fmt)
        name = f"t{world.number()}"
        target = ModelNode(name, job.path, fmt, node.contents)
        if rng.random() < 0.25:
            target.rules = [
                {
                    "event": rng.choice(TARGET_EVENTS),
                    "once": True,
                    "immediately": rng.random() < 0.5,
                    "errno": rng.choice([5, 5, 28]),
                }
                for _ in range(rng.randint(1, 2))
            ]
            world.trouble = True
        data["target"] = name
        job.target_node = name
        await world.execute("blockdev-add", **target.options())
        world.targets[name] = job.path

    async def _create(self, job: ModelJob, node: ModelNode, fmt: str) -> None:
        size = node.contents.size
        if self.rng.random() < 0.03:
            size += 64 * KIB
            self.doom("sizes")
        cluster = self.rng.choice([4, 64, 64, 128]) * KIB
        await self.world.create_file(job.path, fmt, size, cluster)


__all__ = ["Backups", "ModelBitmap"]
