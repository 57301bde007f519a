"""What a scenario plays on: disks of a guest with a model of each, and their backups.

The model of a disk is one pattern per cluster, and the set of clusters that its bitmap must have.
When a scene closes, nothing of it may be left in the daemon: no job, no transaction, no node, no
open file.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from blkxact.bitmap import DirtyBitmap

from .harness import Client, Daemon, Json, action, say
from .images import (
    CLUSTER,
    CLUSTERS,
    SIZE,
    assert_content,
    check,
    content_bytes,
    make_image,
    read_image,
)

SECTOR = 512
EIO = 5
ENOSPC = 28


def inject(cluster: int, iotype: str, *, errno: int = EIO, once: bool = False) -> Json:
    """Return a rule of blkdebug that fails requests on a cluster."""
    return {
        "event": "none",
        "iotype": iotype,
        "sector": cluster * CLUSTER // SECTOR,
        "errno": errno,
        "once": once,
    }


def qcow2(path: Path) -> Json:
    """Return BlockdevOptions of an image."""
    return {"driver": "qcow2", "file": {"driver": "file", "filename": str(path)}}


def with_faults(image: Json, *rules: Json) -> Json:
    """Return BlockdevOptions of an image whose requests fail by these rules."""
    return {"driver": "blkdebug", "image": image, "inject-error": list(rules)} if rules else image


def digest(clusters: set[int]) -> str:
    """Return x-debug-block-dirty-bitmap-sha256 of a bitmap with these clusters dirty."""
    bitmap = DirtyBitmap(SIZE, CLUSTER)
    for cluster in clusters:
        bitmap.mark(cluster * CLUSTER, CLUSTER)
    return bitmap.sha256()


class Disk:
    """One disk of the guest. Its bitmap is ``b0`` unless a scenario makes others."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.scene = scene
        self.name = name
        """Node name."""
        self.device = f"{name}-dev"
        self.path = scene.directory / f"{name}.qcow2"
        self.content = [0] * CLUSTERS
        self.dirty: set[int] = set()
        self.chain: list[Path] = []
        """Backups that restore the disk, each the backing file of the next."""

    async def write(self, *clusters: int, pattern: int, client: Client | None = None) -> None:
        """Let the guest fill clusters."""
        client = client or self.scene.client
        for cluster in clusters:
            line = f"write -q -P {pattern} {cluster * CLUSTER} {CLUSTER}"
            said = await client.guest(self.device, line)
            assert not said, f"{self.name}: {line}: {said}"
            self.content[cluster] = pattern
            self.dirty.add(cluster)

    async def bitmaps(self) -> dict[str, Json]:
        """Return BlockDirtyInfo by name; successors have none and are left out."""
        for node in await self.scene.client.run("query-named-block-nodes", flat=True):
            if node["node-name"] == self.name:
                return {one["name"]: one for one in node.get("dirty-bitmaps", []) if "name" in one}
        raise AssertionError(f"there is no node {self.name}")

    async def is_frozen(self, name: str = "b0") -> bool:
        """Return whether a job holds the bitmap."""
        return bool((await self.bitmaps())[name]["busy"])

    async def assert_dirty(self, clusters: set[int], name: str = "b0") -> None:
        """Assert that a settled bitmap has exactly these clusters, and that it records."""
        info = (await self.bitmaps())[name]
        assert info["count"] == len(clusters) * CLUSTER, (self.name, name, info, clusters)
        assert not info["busy"], (self.name, info)
        assert info["recording"], (self.name, info)
        answer = await self.scene.client.run(
            "x-debug-block-dirty-bitmap-sha256", node=self.name, name=name
        )
        assert answer["sha256"] == digest(clusters), (self.name, name, clusters)

    async def next_target(self) -> Path:
        """Make the image for the next incremental backup, on top of the chain."""
        path = self.scene.directory / f"{self.name}.{self.scene.number()}.qcow2"
        return await make_image(path, backing=self.chain[-1])

    def incremental(self, image: Path, job: str, **more: Any) -> Json:
        """Return the action that backs up what ``b0`` tells, to an image of ``next_target``."""
        members = {
            "device": self.name,
            "job_id": job,
            "sync": "incremental",
            "bitmap": "b0",
            "target": str(image),
            "format": "qcow2",
            "mode": "existing",
        }
        return action("drive-backup", **(members | more))


class Scene:
    """A directory, a daemon, and the client that acts in the scenario."""

    def __init__(self, directory: Path, daemon: Daemon, client: Client) -> None:
        self.directory = directory
        self.daemon = daemon
        self.client = client
        self.disks: list[Disk] = []
        self.complaints: set[str] = set()
        """What the daemon's standard error may say; anything else is a failure."""
        self._log_start = len(daemon.text())
        self._nodes: list[str] = []
        self._number = 0

    def number(self) -> int:
        """Return a number that no image of this scene has yet."""
        self._number += 1
        return self._number

    async def disk(self, name: str, *rules: Json) -> Disk:
        """Make a disk and plug it in; ``rules`` of blkdebug make its requests fail."""
        disk = Disk(self, name)
        if not disk.path.exists():
            await make_image(disk.path)
        await self.add_node(name, with_faults(qcow2(disk.path), *rules))
        await self.client.run("device_add", driver="virtio-blk", id=disk.device, drive=name)
        self.disks.append(disk)
        return disk

    async def add_node(self, name: str, options: Json) -> str:
        """blockdev-add; the node is deleted with the scene."""
        await self.client.run("blockdev-add", **{"node-name": name}, **options)
        self._nodes.append(name)
        return name

    async def drop_node(self, name: str) -> None:
        """blockdev-del."""
        await self.client.run("blockdev-del", node_name=name)
        self._nodes.remove(name)

    async def full_backup(self, *disks: Disk) -> None:
        """Take full backups and make the bitmaps ``b0``, in one transaction."""
        actions = []
        for disk in disks:
            target = self.directory / f"{disk.name}.full.qcow2"
            actions += [
                action("block-dirty-bitmap-add", node=disk.name, name="b0"),
                action(
                    "drive-backup",
                    device=disk.name,
                    job_id=f"full-{disk.name}",
                    sync="full",
                    target=str(target),
                    format="qcow2",
                ),
            ]
            disk.chain, disk.dirty = [target], set()
        say(f"full backup of {', '.join(disk.name for disk in disks)}, bitmaps made")
        await self.client.transaction(*actions, txn="full")
        done = await self.client.hear("TRANSACTION_COMPLETED", id="full")
        assert done["status"] == "completed", done
        self.client.mark()

    async def busy_disks(self, count: int, *, names: str = "d") -> list[Disk]:
        """Make disks with a full backup, and three clusters dirty in each since then."""
        disks = [await self.disk(f"{names}{number}") for number in range(count)]
        await self.dirty_disks(*disks)
        return disks

    async def dirty_disks(self, *disks: Disk) -> None:
        """Take the full backup of disks with some data; then write clusters 1, 20 and 21."""
        for number, disk in enumerate(disks):
            await disk.write(0, 1, 30, pattern=10 + number)
        await self.full_backup(*disks)
        for number, disk in enumerate(disks):
            await disk.write(1, 20, 21, pattern=20 + number)

    async def nodes(self) -> set[str]:
        """Return the names of all nodes."""
        nodes = await self.client.run("query-named-block-nodes", flat=True)
        return {node["node-name"] for node in nodes}

    async def assert_settled(self) -> None:
        """Assert that all jobs and transactions are over and no bitmap is busy."""
        for query in ("query-jobs", "query-block-jobs", "query-transactions"):
            assert await self.client.run(query) == [], query
        for disk in self.disks:
            for name, info in (await disk.bitmaps()).items():
                assert not info["busy"], (disk.name, name, info)

    async def back_up(self, *disks: Disk, txn: str = "retry", mode: str | None = None) -> None:
        """Run an incremental backup of all disks, which must succeed."""
        targets = [await disk.next_target() for disk in disks]
        say(f"incremental backup {txn!r} of {', '.join(disk.name for disk in disks)}")
        self.client.mark()
        await self.client.transaction(
            *(
                disk.incremental(target, f"{txn}-{disk.name}")
                for disk, target in zip(disks, targets, strict=True)
            ),
            mode=mode,
            txn=txn,
        )
        done = await self.client.hear("TRANSACTION_COMPLETED", id=txn)
        assert done["status"] == "completed", done
        assert {fate["outcome"] for fate in done["bitmaps"]} == {"abdicated"}, done
        for disk, target in zip(disks, targets, strict=True):
            disk.chain.append(target)
            disk.dirty = set()
            await disk.assert_dirty(set())

    async def restore(self, *disks: Disk) -> None:
        """Assert that each chain of backups holds what its disk holds now."""
        await asyncio.gather(*(assert_content(disk.chain[-1], disk.content) for disk in disks))
        for disk in disks:
            say(f"{disk.chain[-1].name} and what is below it restores {disk.name}")

    async def close(self) -> None:
        """Take everything down; assert that nothing stays behind, and that the disks are sound."""
        await self.assert_settled()
        for disk in self.disks:
            await self.client.run("device_del", id=disk.device)
        for name in reversed(self._nodes):
            await self.client.run("blockdev-del", node_name=name)
        assert await self.nodes() == set()
        left = [one for one in self.daemon.files() if one.startswith(str(self.directory))]
        assert left == [], left
        said = self.daemon.text()[self._log_start :].splitlines()
        assert [line for line in said if not any(one in line for one in self.complaints)] == []
        await asyncio.gather(*(check(disk.path) for disk in self.disks))
        for disk in self.disks:
            assert await read_image(disk.path) == content_bytes(disk.content), disk.name
