"""Transactions made by chance, what each must do, and whether it must be refused.

A ``Plan`` grows action by action on a copy of what the model knows of the bitmaps, so that later
actions may use what earlier ones do. ``doomed`` says that the emulator has to refuse the whole;
``sure`` that it must not.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from .backups import Backups
from .bitmaps import ModelBitmap
from .disks import KIB, Disk, ModelNode
from .jobs import ModelJob, ModelTxn
from .world import Refused, World

LONGEST_CHAIN = 8

OK, BUSY, GONE, INCONSISTENT = "ok", "busy", "gone", "inconsistent"
"""``BUSY``: an earlier transaction has it; ``frozen`` and ``GONE``: an action of this one."""


class Plan(Backups):
    """One transaction, or a plain command (``alone``)."""

    def __init__(
        self,
        world: World,
        rng: random.Random,
        *,
        alone: bool = False,
        jobs: bool | None = None,
        main_job: bool = False,
    ) -> None:
        self.world = world
        self.rng = rng
        self.alone = alone
        self.only_jobs = jobs
        self.main_job = main_job
        self.mode = rng.choice(["individual", "individual", "grouped", "deferred", "deferred"])
        if alone:
            self.mode = "individual"
        self.id = f"txn{world.number()}" if not alone and rng.random() < 0.7 else None
        self.actions: list[tuple[str, dict[str, Any]]] = []
        self.effects: list[Callable[[], None]] = []
        self.jobs: list[ModelJob] = []
        self.dooms: list[tuple[str, tuple[str, str] | None]] = []
        self.sure = True
        self.moved: set[str] = set()
        """Disks that get an overlay in this transaction."""
        self.states: dict[tuple[str, str], str] = {}
        for node in world.nodes():
            for name, bitmap in node.bitmaps.items():
                state = BUSY if bitmap.frozen else OK
                self.states[node.name, name] = INCONSISTENT if bitmap.inconsistent else state

    # The whole

    async def run(self) -> None:
        await self._grow()
        if not self.actions:
            return
        world, stats = self.world, self.world.stats
        async with world.layer.lock:  # jobs that have concluded have closed their nodes by then
            before = self._nodes_and_files()
        world.on_commit = self._commit
        try:
            if self.alone:
                kind, data = self.actions[0]
                await world.execute(kind, **data)
            else:
                actions = [{"type": kind, "data": data} for kind, data in self.actions]
                await world.execute("transaction", actions=actions, **self._properties())
        except Refused as error:
            assert world.on_commit is not None, "refused after it was committed"
            self._refused(str(error), before)
        else:
            assert world.on_commit is None
            stats["plain command" if self.alone else f"transaction {self.mode}"] += 1
            for kind, _ in self.actions:
                stats[kind] += 1
        finally:
            world.on_commit = None

    def _properties(self) -> dict[str, Any]:
        properties = {"completion-mode": self.mode}
        if self.id is not None:
            properties["id"] = self.id
        if self.mode == "individual" and self.id is None and self.rng.random() < 0.5:
            return {}
        return {"properties": properties}

    def _nodes_and_files(self) -> Any:
        """Return what a refused transaction must leave as it was, if no job is at work."""
        layer = self.world.layer
        if any(job.status != "concluded" for job in self.world.events.jobs.values()):
            return None
        return (
            sorted(layer.graph.nodes),
            sorted(file.path for file in self.world.storage.open_files),
            {
                name: {bitmap: vars_of(real) for bitmap, real in node.bitmaps.items()}
                for name, node in layer.graph.nodes.items()
            },
        )

    def _refused(self, desc: str, before: Any) -> None:
        world = self.world
        if not self.dooms and self.sure and not world.trouble:
            raise AssertionError(f"refused without a reason: {desc}; {self.actions}")
        world.stats["refused"] += 1
        for why, _ in self.dooms[:1]:
            world.stats[f"refused: {why}"] += 1
        assert not world.events.preparing, world.events.preparing
        after = self._nodes_and_files()
        if before is not None and after is not None:
            assert after == before, f"a refused transaction left something\n{before}\n{after}"
        assert not [txn for txn in world.layer.transactions if not txn.launched]

    def _commit(self) -> None:
        """The emulator commits now: take what the transaction does into the model."""
        assert not self.doomed, f"committed: {self.doomed}"
        txn = ModelTxn(self.mode, self.id, self.jobs)
        for effect in self.effects:
            effect()
        for job in self.jobs:
            job.txn = txn
            self.world.events.started(job)
        if self.id is not None:
            self.world.events.txns[self.id] = txn

    async def _back_up_all(self) -> None:
        """What clients do: an increment of every disk, or a full backup where that is not known."""
        if self.rng.random() < 0.3 and self.mode != "deferred":
            self.mode = "deferred"
        for disk in self.world.disks:
            node = disk.top
            free = [bitmap for bitmap in node.bitmaps.values() if self._is_good(node, bitmap)]
            if not free or self.rng.random() < 0.1:
                continue
            bitmap = self.rng.choice(free)
            if bitmap.base is not None and len(bitmap.base) < LONGEST_CHAIN:
                await self.add_backup(node, "incremental", bitmap.name)
            elif self.mode != "grouped":
                self._bitmap_clear(node.name, bitmap.name)
                await self.add_backup(node, "full")

    def _is_good(self, node: ModelNode, bitmap: ModelBitmap) -> bool:
        state = self.states[node.name, bitmap.name]
        return bitmap.enabled and not bitmap.inconsistent and state == OK

    async def _grow(self) -> None:
        rng = self.rng
        if self.main_job:
            await self._back_up_all()
            return
        count = 1 if self.alone else rng.choice([1, 2, 2, 3, 4, 6])
        for _ in range(count):
            if self.only_jobs is not None:
                jobs = self.only_jobs
            elif self.mode == "grouped":
                jobs = rng.random() < 0.93
            else:
                jobs = rng.random() < 0.4
            if jobs:
                await self.add_backup()
            else:
                await self._add_other()
        if not self.alone and self.actions and rng.random() < 0.06:
            self.actions.insert(rng.randint(0, len(self.actions)), ("abort", {}))
            self.doom("abort")

    def doom(self, why: str, busy: tuple[str, str] | None = None) -> None:
        """The emulator must refuse the transaction; if only while a bitmap is ``busy``."""
        self.dooms.append((why, busy))

    @property
    def doomed(self) -> str:
        """Why the emulator would have to refuse the transaction now."""
        for why, key in self.dooms:
            if key is None or self.get(key).frozen:
                return why
        return ""

    def add(self, kind: str, data: dict[str, Any], effect: Callable[[], None]) -> None:
        self.actions.append((kind, data))
        self.effects.append(effect)
        if self.mode == "grouped" and not kind.endswith("backup"):
            self.doom("an action without a job in a grouped transaction")

    # Actions on bitmaps, and snapshots

    async def _add_other(self) -> None:
        rng = self.rng
        roll = rng.random()
        if roll < 0.07 and not self.alone:
            await self._snapshot()
        elif roll < 0.25 or not self.states:
            self._bitmap_add()
        elif roll < 0.5:
            self._bitmap_merge()
        else:
            self._bitmap_verb(
                rng.choice(["remove", "clear", "enable", "enable", "enable", "disable"])
            )

    def pick_node(self) -> ModelNode:
        disk = self.rng.choice(self.world.disks)
        return disk.top if self.rng.random() < 0.85 else self.rng.choice(disk.nodes())

    def _bitmap_add(self) -> None:
        rng, node = self.rng, self.pick_node()
        name = f"b{rng.randint(0, 5)}"
        if (node.name, name) in self.states and rng.random() < 0.8:
            return
        granularity = rng.choice([512, 4 * KIB, 64 * KIB, 64 * KIB, 128 * KIB])
        bitmap = ModelBitmap(node.name, name, node.contents.size, granularity)
        data: dict[str, Any] = {"node": node.name, "name": name, "granularity": granularity}
        if rng.random() < 0.15:
            data["disabled"] = True
            bitmap.enabled = False
        if rng.random() < (0.4 if node.fmt == "qcow2" else 0.03):
            data["persistent"] = True
            bitmap.persistent = True
            if node.fmt == "raw":
                self.doom("a persistent bitmap in a raw image")
            self.sure &= self.is_top(node)
        if (node.name, name) in self.states:
            self.doom("a bitmap of that name is there")
        if rng.random() < 0.03:
            data["granularity"] = 1000
            self.doom("granularity")
        self.states.setdefault((node.name, name), OK)

        def effect() -> None:
            node.bitmaps[name] = bitmap
            self._pend(bitmap)

        self.add("block-dirty-bitmap-add", data, effect)

    def is_top(self, node: ModelNode) -> bool:
        return any(disk.top is node for disk in self.world.disks) and node.name not in self.moved

    def _pick_bitmap(self) -> tuple[str, str]:
        free = [key for key, state in self.states.items() if state == OK]
        if free and self.rng.random() < 0.95:
            return self.rng.choice(free)
        if self.states and self.rng.random() < 0.7:
            return self.rng.choice(list(self.states))
        return self.rng.choice(self.world.disks).top.name, "nosuch"

    def check_usable(self, key: tuple[str, str], *, removing: bool = False) -> None:
        if key not in self.states:
            self.doom("no such bitmap")
        elif self.states[key] == INCONSISTENT:
            if not removing:
                self.doom("an inconsistent bitmap")
        elif self.states[key] != OK:
            self.doom("a busy bitmap", key if self.states[key] == BUSY else None)
        node = self.world.find_node(key[0])
        assert node is not None
        self.sure &= self.is_top(node)  # others are read-only, maybe

    def get(self, key: tuple[str, str]) -> ModelBitmap:
        node = self.world.find_node(key[0])
        assert node is not None
        return node.bitmaps[key[1]]

    def _bitmap_clear(self, node_name: str, name: str) -> None:
        self._bitmap_verb("clear", (node_name, name))

    def _bitmap_verb(self, verb: str, key: tuple[str, str] | None = None) -> None:
        key = key or self._pick_bitmap()
        self.check_usable(key, removing=verb == "remove")
        if verb == "remove" and key in self.states:
            self.states[key] = GONE

        def effect() -> None:
            bitmap = self.get(key)
            if verb == "remove":
                node = self.world.find_node(key[0])
                assert node is not None
                del node.bitmaps[key[1]]
            elif verb == "clear":
                bitmap.clear()
                self._pend(bitmap)
            else:
                bitmap.enabled = verb == "enable"

        data = {"node": key[0], "name": key[1]}
        self.add(f"block-dirty-bitmap-{verb}", data, effect)

    def _pend(self, bitmap: ModelBitmap) -> None:
        """A bitmap cleared together with the start of a full backup is in step with that."""
        for job in self.jobs:
            if job.node == bitmap.node and job.sync in ("full", "top") and job.bitmap is None:
                bitmap.pending = job

    def _bitmap_merge(self) -> None:
        target = self._pick_bitmap()
        sources = [self._pick_bitmap() for _ in range(self.rng.randint(1, 3))]
        data: list[Any] = []
        for source in (target, *sources):
            self.check_usable(source)
        for node_name, name in sources:
            if self.node_size(node_name) != self.node_size(target[0]):
                self.doom("bitmaps of different sizes")
            plain = node_name == target[0] and self.rng.random() < 0.5
            data.append(name if plain else {"node": node_name, "name": name})

        def effect() -> None:
            for source in sources:
                self.get(target).merge(self.get(source))

        members = {"node": target[0], "target": target[1], "bitmaps": data}
        self.add("block-dirty-bitmap-merge", members, effect)

    def node_size(self, name: str) -> int:
        node = self.world.find_node(name)
        assert node is not None
        return node.contents.size

    async def _snapshot(self) -> None:
        world, rng = self.world, self.rng
        disk = rng.choice(world.disks)
        below = disk.top
        name = f"s{world.number()}"
        overlay = ModelNode(name, f"/{name}.qcow2", "qcow2", below.contents, below)
        if below.name in self.moved or len(disk.nodes()) > 6:
            return
        self.moved.add(below.name)
        if rng.random() < 0.5:
            kind = "blockdev-snapshot-sync"
            data = {
                "node-name": below.name,
                "snapshot-file": overlay.path,
                "snapshot-node-name": name,
            }
        else:
            kind = "blockdev-snapshot"
            data = {"node": below.name, "overlay": name}
            size = below.contents.size
            await world.create_file(overlay.path, "qcow2", size, 64 * KIB, below)
            await world.execute("blockdev-add", **overlay.options() | {"backing": None})
            world.targets[name] = overlay.path
        self.sure &= not any(job.node == below.name for job in world.events.jobs.values())
        self.sure &= not any(job.node == below.name for job in self.jobs)

        def effect() -> None:
            overlay.contents = below.contents.copy()
            world.read_only_soon.append(below)
            disk.top = overlay
            world.targets.pop(name, None)

        self.add(kind, data, effect)


def vars_of(real: Any) -> Any:
    return real.enabled, real.busy, real.persistent, real.successor is None, real.skip_store


__all__ = ["Disk", "Plan"]
