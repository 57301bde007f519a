"""One emulator on a simulated loop, and beside it the model of what it has to be.

The emulator's trace tells when a transaction commits: it is then that the model takes its snapshot
of the disks and applies what the transaction asked for. Guests' writes enter the model when they
return. All that is one synchronous stretch each, so model and emulator are never out of step.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from blkxact.block_layer import BlockLayer
from blkxact.commands import Dispatcher
from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.runtime.events import EventSink
from blkxact.runtime.trace import ActionStep, BitmapSettled, TraceEvent
from blkxact.testing.loop import SimulatedLoop
from blkxact.testing.memory_file import MemoryStorage

from .bitmaps import ModelBitmap, actual_bits
from .contents import Contents
from .disks import KIB, Disk, ModelNode, random_range, random_size
from .guests import Guests
from .jobs import Events, ModelJob

WIDEST_CLUSTER = 128 * KIB
LATENCY = 0.002
"""Virtual seconds that a request to a file may take."""


class Refused(Exception):  # noqa: N818 - it names what happened
    """The emulator answered a command with an error."""


class World:
    """``rng`` is only for building it; steps get their own source of chance."""

    def __init__(self, seed: int, rng: random.Random, *, latency: float | None = LATENCY) -> None:
        self.seed = seed
        self.loop = SimulatedLoop(seed)
        self.storage = MemoryStorage(random.Random(seed + 1), latency=latency)
        self.events = Events()
        self.stats: Counter[str] = Counter()
        self.disks: list[Disk] = []
        self.first_bitmaps: list[ModelBitmap] = []
        self.read_only_soon: list[ModelNode] = []
        self.targets: dict[str, str] = {}
        """Nodes made for backups and not deleted: their images' paths."""
        self.guests = Guests(self)
        self.on_commit: Callable[[], None] | None = None
        self.trouble = False
        """Faults were ordered: requests may fail that otherwise must not."""
        self.unstorable: set[tuple[str, str]] = set()
        """Node and name of the bitmaps that the last shutdown could not store: read-only images."""
        self.verdicts: list[Exception] = []
        self.closing = False
        self.leaky = False
        """The process was killed: clusters of images may have leaked."""
        self.deaf = False
        """The emulator was killed; what its remains do has no effect on anything."""
        self.failed = False
        """A step has broken an invariant: the world need not be checked any more."""
        self._numbers = 0
        self._rng = rng
        self.do(self._build())

    # Driving

    def do(self, work: Any) -> Any:
        """Run a coroutine on the loop until it ends; jobs and guests go on meanwhile."""
        try:
            result = self.loop.run_until_complete(work)
        finally:
            if self.verdicts:
                raise self.verdicts[0]
        if self.loop.unhandled:
            raise self.loop.unhandled[0]
        return result

    def number(self) -> int:
        """Return a number that was not used before, for names and stamps."""
        self._numbers += 1
        return self._numbers

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Execute a QMP command; ``_`` in names stands for ``-``. Raises ``Refused``."""
        wired = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.events.log.append(f"-> {command} {wired}")
        try:
            result = self.dispatcher.execute(command, wired)
            if asyncio.iscoroutine(result):
                result = await result
        except QmpError as error:
            self.events.log.append(f"<- error {error.desc}")
            raise Refused(error.desc) from error
        self.events.log.append("<- return")
        return result

    # Building

    async def _build(self) -> None:
        self.start()
        size = random_size(self._rng)
        for index in range(self._rng.randint(1, 3)):
            if self._rng.random() < 0.2:
                size = random_size(self._rng)
            await self._make_disk(index, size)
        for bitmap in self.first_bitmaps:
            node = self.find_node(bitmap.node)
            assert node is not None
            bitmap.persistent = node.fmt == "qcow2"
            await self.execute(
                "block-dirty-bitmap-add",
                node=node.name,
                name=bitmap.name,
                granularity=bitmap.granularity,
                persistent=bitmap.persistent,
            )
            node.bitmaps[bitmap.name] = bitmap

    def start(self) -> None:
        """Start an emulator over the storage as it is."""
        sink = EventSink(self.loop.clock)
        sink.subscribe(self._on_event)
        self.layer = BlockLayer(
            self.storage,
            self.loop.clock,
            sink,
            rng=random.Random(self.seed + 2),
            trace=self._hear_trace,
        )
        self.dispatcher = Dispatcher(self.layer)

    async def _make_disk(self, index: int, size: int) -> None:
        rng = self._rng
        node: ModelNode | None = None
        for depth in range(rng.choice([1, 1, 2, 3])):
            fmt = rng.choice(["qcow2", "raw"] if depth == 0 else ["qcow2"])
            node = await self.make_image(f"d{index}-{depth}", fmt, size, backing=node)
            await self._fill(node)
        assert node is not None
        if rng.random() < 0.15:
            event = rng.choice(["read_aio", "write_aio", "l2_update", "cow_read", "cluster_alloc"])
            node.rules = [{"event": event, "once": True, "immediately": rng.random() < 0.5}]
            self.trouble = True
        if rng.random() < 0.8:
            size = node.contents.size
            self.first_bitmaps.append(ModelBitmap(node.name, "b0", size, rng.choice([4, 64]) * KIB))
        disk = Disk(f"disk{index}", node)
        self.disks.append(disk)
        await self.plug(disk)

    async def make_image(
        self, name: str, fmt: str, size: int, backing: ModelNode | None = None
    ) -> ModelNode:
        """Create an image file and return the node of the model for it."""
        contents = backing.contents.copy() if backing else Contents(size)
        node = ModelNode(name, f"/{name}.{fmt}", fmt, contents, backing)
        cluster = (
            self._rng.choice([4, 64, 64]) * KIB if self._rng.random() < 0.9 else WIDEST_CLUSTER
        )
        await self.create_file(node.path, fmt, size, cluster, node.backing)
        return node

    async def create_file(
        self, path: str, fmt: str, size: int, cluster: int, backing: ModelNode | None = None
    ) -> None:
        """Create an image as ``qemu-img create`` does."""
        file = await self.storage.create(path)
        if fmt == "raw":
            await file.truncate(size)
        else:
            options = CreateOptions(
                size,
                cluster_size=cluster,
                backing_file=backing.path if backing else None,
                backing_format=backing.fmt if backing else None,
            )
            await create(StorageChild(file), options)
        await file.close()

    async def _fill(self, node: ModelNode) -> None:
        """Write something to a new image."""
        await self.execute("blockdev-add", **node.options())
        backend = self._plug(node, "filler")
        for _ in range(self._rng.randint(0, 3)):
            offset, length = random_range(self._rng, node.contents.size)
            stamp = self.number()
            await backend.pwrite(offset, stamp.to_bytes(4, "big") * (length // 4))
            node.contents.write(offset, length, stamp)
        await self.execute("device_del", id="filler")
        await self.execute("blockdev-del", node_name=node.name)

    async def plug(self, disk: Disk) -> None:
        """Open a disk's chain and give it to the guest."""
        await self.execute("blockdev-add", **disk.top.options())
        self._plug(disk.top, disk.device)

    def _plug(self, node: ModelNode, device: str) -> Any:
        self.layer.devices.add({"driver": "scsi-hd", "id": device, "drive": node.name})
        backend = self.layer.find_backend(device)
        assert backend is not None
        return backend

    # What the emulator tells of itself

    def _hear_trace(self, event: TraceEvent) -> None:
        self.events.log.append(str(event))
        self._judge(self._on_trace, event)

    def _on_event(self, event: dict[str, Any]) -> None:
        self._judge(self.events, event)

    def _judge(self, listener: Callable[[Any], None], what: Any) -> None:
        """Let the model listen; what it finds wrong must not change what the emulator does."""
        if self.deaf:
            return
        try:
            listener(what)
        except Exception as error:  # noqa: BLE001 - raised again by the next step
            self.verdicts.append(error)

    def _on_trace(self, event: TraceEvent) -> None:
        line = str(event)
        assert " raised: " not in line, line
        assert "Internal error" not in line, line
        assert not line.startswith("Traceback"), line
        committing = isinstance(event, ActionStep) and event.verb == "commit"
        if committing and self.on_commit is not None:
            self._check_held()
            commit, self.on_commit = self.on_commit, None
            commit()
            for node in self.read_only_soon:
                for bitmap in node.bitmaps.values():
                    bitmap.image_becomes_read_only()
            self.read_only_soon.clear()
        if isinstance(event, BitmapSettled):
            self._settled(event.node, event.bitmap, event.outcome)

    def _check_held(self) -> None:
        """While a transaction commits, no request is under way on what it is about."""
        for node in self.layer.graph.nodes.values():
            if node.sections:
                assert not node.in_flight, f"{node} has requests under way at the commit"

    def _settled(self, node_name: str, name: str, outcome: str) -> None:
        """Follow a frozen bitmap to its end."""
        node = self.find_node(node_name)
        assert node is not None
        bitmap = node.bitmaps[name]
        frozen = bitmap.frozen
        assert frozen is not None, f"{node_name}/{name} was settled twice"
        txn = frozen.jobs[0].txn
        assert txn is not None
        self.stats[f"bitmap {outcome}"] += 1
        self.events.settled.append((txn, frozen.jobs, outcome))
        txn.fates[node_name, name] = outcome
        actual = self.layer.graph.nodes[node_name].bitmaps[name]
        initial = bitmap.may
        if outcome != "abdicated":
            bitmap.reclaim()
            return
        bitmap.abdicate()
        self._leftover(bitmap, frozen.jobs, initial, actual_bits(actual))
        bases = [job.chain for job in frozen.jobs if job.complete_chain]
        bitmap.lose_base()
        bitmap.base = bases[-1] if bases and not frozen.missed else None

    def _leftover(
        self, bitmap: ModelBitmap, jobs: list[ModelJob], initial: int, found: int
    ) -> None:
        """With bitmap-mode always a failed job leaves dirty what it did not copy."""
        failed = [job for job in jobs if self._has_failed(job)]
        if not failed:
            return
        if any(job.sync != "bitmap" for job in failed):
            initial = bitmap.mask(0, bitmap.size)
        allowed = bitmap.may
        for offset, _ in bitmap.ranges(initial):
            start = offset // WIDEST_CLUSTER * WIDEST_CLUSTER
            allowed |= bitmap.mask(start, min(WIDEST_CLUSTER, bitmap.size - start))
        assert not found & ~allowed, "bits came from nowhere"
        assert not bitmap.must & ~found, "a write was forgotten"
        bitmap.must, bitmap.may = found, found

    def _has_failed(self, job: ModelJob) -> bool:
        """Return whether a job failed, or its transaction if that is what counts."""
        live = self.layer.jobs.get(job.id)
        assert job.txn is not None
        if job.txn.mode == "deferred":
            return not job.txn.good
        return bool(live.ret) if live is not None else job.ended != "completed"

    # Looking things up

    def nodes(self) -> list[ModelNode]:
        """Return the nodes of all disks."""
        return [node for disk in self.disks for node in disk.nodes()]

    def find_node(self, name: str) -> ModelNode | None:
        return next((node for node in self.nodes() if node.name == name), None)

    def disk_of(self, node: ModelNode) -> Disk:
        return next(disk for disk in self.disks if node in disk.nodes())

    # Invariants that hold at any time

    def check(self) -> None:
        """Compare all bitmaps, and what runs."""
        self.events.check_settled()
        self.follow_backups()
        for disk in self.disks:
            for node in disk.nodes():
                self._check_bitmaps(disk, node)
        assert set(self.layer.jobs) == set(self.events.jobs)

    def follow_backups(self) -> None:
        """Bitmaps are in step with the full backups that began together with them."""
        for node in self.nodes():
            for bitmap in node.bitmaps.values():
                job = bitmap.pending
                if job is not None and job.ended is not None:
                    bitmap.pending = None
                    if job.ended == "completed":
                        bitmap.base = job.chain

    def _check_bitmaps(self, disk: Disk, node: ModelNode) -> None:
        actual = self.layer.graph.nodes[node.name].bitmaps
        assert actual.keys() == node.bitmaps.keys(), f"{node.name}: {set(actual)}"
        for name, bitmap in node.bitmaps.items():
            here = f"{node.name}/{name}"
            real, frozen = actual[name], bitmap.frozen
            assert real.busy == (frozen is not None), f"{here} busy: {real.busy}"
            assert real.persistent == bitmap.persistent, here
            assert real.inconsistent == bitmap.inconsistent, here
            assert real.enabled == (bitmap.enabled and not frozen), here
            extra = 0
            if node is disk.top:
                for start, stop, _ in disk.busy:
                    extra |= bitmap.mask(start, stop - start)
            if frozen is not None:
                assert real.successor.enabled == frozen.enabled, here
                compare_bits(f"{here} frozen", real, bitmap.must, bitmap.may)
                compare_bits(f"{here} successor", real.successor, frozen.must, frozen.may | extra)
            else:
                compare_bits(here, real, bitmap.must, bitmap.may | extra)


def compare_bits(what: str, real: Any, must: int, may: int) -> None:
    """No dirty bit is ever lost, and none comes from nowhere."""
    found = actual_bits(real)
    assert not must & ~found, f"{what} LOST granules {must & ~found:b}"
    assert not found & ~may, f"{what} has granules {found & ~may:b} that nobody wrote"
