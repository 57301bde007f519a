"""A mirror by chance on a simulated loop: guests, verbs and faults, beside a ``bytearray``.

When a mirror is about to end well its source is drained. Then source and target must be equal, and
both must hold what the guests have written.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections import Counter
from typing import Any

from blkxact.block_layer import BlockLayer
from blkxact.commands import Dispatcher
from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.runtime.events import EventSink
from blkxact.runtime.release import RELEASES
from blkxact.testing.faults import Fault
from blkxact.testing.loop import SimulatedLoop
from blkxact.testing.memory_file import MemoryStorage

KIB = 1024
SECTOR = 512
GUESTS = 3
REQUESTS = 30
"""Of each guest."""
LATENCIES = (0.0005, 0.002, 0.05)
"""Virtual seconds that a request to a file may take."""
PATIENCE_S = 60.0
"""Virtual seconds after which a job is taken never to end by itself."""


class World:
    """One emulator with a disk ``a`` that is mirrored to ``t``. ``stats`` says what happened."""

    def __init__(self, loop: SimulatedLoop, seed: int, *, faults: bool) -> None:
        self.rng = random.Random(seed)
        self.faults = faults
        self.stats: Counter[str] = Counter()
        self.storage = MemoryStorage(random.Random(seed + 1), latency=0.002)
        self.clock = loop.clock
        self.events: list[dict[str, Any]] = []
        sink = EventSink(self.clock)
        sink.subscribe(self.events.append)
        self.layer = BlockLayer(self.storage, self.clock, sink, rng=random.Random(seed + 2))
        self.layer.release = RELEASES[self.rng.choice(["7.2", "11.1"])]
        self.newest = self.layer.release.major > 7
        self.layer.points.listen("job.prepare", self._compare)
        self.size = self.rng.choice([64, 200, 513]) * KIB + self.rng.choice([0, SECTOR])
        self.expected = bytearray(self.size)
        self.unknown: set[int] = set()
        """Sectors that were discarded."""
        self.job: Any = None
        self.verdict: AssertionError | None = None
        """What was wrong when the mirror was about to end well."""

    async def execute(self, command: str, **arguments: Any) -> Any:
        wired = {name.replace("_", "-"): value for name, value in arguments.items()}
        result = Dispatcher(self.layer).execute(command, wired)
        return await result if asyncio.iscoroutine(result) else result

    async def _try(self, command: str, **arguments: Any) -> None:
        """Use a verb; it may be refused in the state in which the job is."""
        try:
            await self.execute(command, **arguments)
        except QmpError as error:
            self.stats[f"refused {command}"] += 1
            self.refusal = error

    # Building

    async def build(self) -> None:
        backing = self.rng.random() < 0.4
        if backing:
            await self._image("b", "qcow2", None)
            await self._fill("b")
        await self._image("a", "qcow2" if backing else self._format(), "b" if backing else None)
        await self._fill("a")
        self.commits = backing and self.rng.random() < 0.4
        if self.commits:  # the target is the backing file
            self.formats["t"] = self.formats["b"]
            await self._open("a", backing="b", backing_node="t")
            self._plug()
            return
        self.sync = self.rng.choice(["full", "top"]) if backing else "full"
        self.target_format = "qcow2" if self.sync == "top" else self._format()
        await self._image("t", self.target_format, "b" if self.sync == "top" else None)
        self.littered = self.sync == "full" and self.rng.random() < 0.5
        if self.littered:
            await self._litter("t")
        await self._open("a", backing="b" if backing else None)
        await self._open("t", backing="b" if self.sync == "top" else None)
        self._plug()

    def _plug(self) -> None:
        self.layer.devices.add({"driver": "scsi-hd", "id": "g", "drive": "a"})
        guest = self.layer.find_backend("g")
        assert guest is not None
        self.guest = guest

    def _format(self) -> str:
        return self.rng.choice(["raw", "qcow2"])

    async def _image(self, name: str, fmt: str, backing: str | None) -> None:
        self.formats = {**getattr(self, "formats", {}), name: fmt}
        file = await self.storage.create(f"/{name}")
        if fmt == "raw":
            await file.truncate(self.size)
        else:
            options = CreateOptions(
                self.size,
                cluster_size=self.rng.choice([4, 16, 64]) * KIB,
                backing_file=f"/{backing}" if backing else None,
                backing_format=self.formats[backing] if backing else None,
            )
            await create(StorageChild(file), options)
        await file.close()

    async def _open(
        self, name: str, backing: str | None = None, backing_node: str | None = None
    ) -> None:
        options: dict[str, Any] = {"driver": self.formats[name], "node_name": name}
        if self.formats[name] == "qcow2":
            options["backing"] = None
            if backing is not None:
                below = {"driver": "file", "filename": f"/{backing}"}
                options["backing"] = {"driver": self.formats[backing], "file": below}
                if backing_node is not None:
                    options["backing"]["node-name"] = backing_node
        file: dict[str, Any] = {"driver": "file", "filename": f"/{name}", "discard": "unmap"}
        if self.rng.random() < 0.5:  # bytes are read and written instead of copied between files
            file = {"driver": "blkdebug", "image": file}
        discard = self.rng.choice(["unmap", "ignore"])
        await self.execute("blockdev-add", **options, file=file, discard=discard)

    async def _fill(self, name: str) -> None:
        """Write something that the disk holds from the beginning."""
        for offset, data in await self._write_by_chance(name, self._backing_of(name)):
            self.expected[offset : offset + len(data)] = data

    async def _litter(self, name: str) -> None:
        """Write something that must not be there in the end."""
        await self._write_by_chance(name, None)

    def _backing_of(self, name: str) -> str | None:
        return "b" if name == "a" and "b" in self.formats else None

    async def _write_by_chance(self, name: str, backing: str | None) -> list[tuple[int, bytes]]:
        written = []
        await self._open(name, backing)
        self.layer.devices.add({"driver": "scsi-hd", "id": "filler", "drive": name})
        filler = self.layer.find_backend("filler")
        assert filler is not None
        for _ in range(self.rng.randrange(4)):
            offset, length = self._range()
            data = self._data(length)
            await filler.pwrite(offset, data)
            written.append((offset, data))
        await self.execute("device_del", id="filler")
        await self.execute("blockdev-del", node_name=name)
        return written

    def _range(self) -> tuple[int, int]:
        sectors = self.size // SECTOR
        length = min(self.rng.choice([1, 2, 7, 8, 64, 128, 300]), sectors)
        return self.rng.randrange(sectors - length + 1) * SECTOR, length * SECTOR

    def _data(self, length: int) -> bytes:
        return self.rng.randbytes(4) * (length // 4)

    # Guests: no two requests of them touch the same bytes at a time

    async def guests(self) -> None:
        busy: list[tuple[int, int]] = []
        await asyncio.gather(*(self._guest(busy) for _ in range(GUESTS)))

    async def _guest(self, busy: list[tuple[int, int]]) -> None:
        for _ in range(REQUESTS):
            await self.clock.sleep(self.rng.random() * 0.02)
            offset, length = self._range()
            if any(offset < end and start < offset + length for start, end in busy):
                continue
            # Slow requests are overtaken by those that come later.
            self.storage.latency = self.rng.choice(LATENCIES)
            busy.append((offset, offset + length))
            await self._request(offset, length)
            busy.remove((offset, offset + length))

    async def _request(self, offset: int, length: int) -> None:
        kind = self.rng.choice(["write", "write", "write", "zero", "discard", "read", "flush"])
        sectors = range(offset // SECTOR, (offset + length) // SECTOR)
        if kind == "write":
            data = self._data(length)
            await self.guest.pwrite(offset, data)
        elif kind == "zero":
            data = bytes(length)
            await self.guest.pwrite_zeroes(offset, length)
        elif kind == "discard":
            await self.guest.pdiscard(offset, length)
            self.unknown.update(sectors)
        elif kind == "read":
            self._check(bytes(await self._read(offset, length)), offset)
        else:
            await self.guest.flush()
        if kind in ("write", "zero"):
            self.expected[offset : offset + length] = data
            self.unknown.difference_update(sectors)
        self.stats[f"guest {kind}"] += 1

    async def _read(self, offset: int, length: int) -> Any:
        """Read as the guest does, which tries again: only the reads of a mirror are to fail."""
        while True:
            try:
                return await self.guest.pread(offset, length)
            except OSError:
                assert self.faults
                await self.clock.sleep(0.01)

    def _check(self, data: bytes, offset: int) -> None:
        for start in range(0, len(data), SECTOR):
            if (offset + start) // SECTOR not in self.unknown:
                expected = self.expected[offset + start : offset + start + SECTOR]
                assert data[start : start + SECTOR] == expected, f"sector at {offset + start}"

    # The job, and who uses its verbs

    async def mirror(self) -> None:
        policies = ["report", "ignore", "stop", "enospc"]
        if self.commits:
            await self.execute(
                "block-commit",
                job_id="m",
                device="a",
                base_node="t",
                speed=self.rng.choice([0, 0, 0, 300 * KIB]),
                auto_finalize=self.rng.random() < 0.7,
                on_error=self.rng.choice(policies),
            )
            self.job = self.layer.jobs["m"]
            return
        claim = {}
        if self.newest and self.sync == "full" and not self.littered:
            claim = {"target_is_zero": self.rng.random() < 0.5}
        await self.execute(
            "blockdev-mirror",
            **claim,
            job_id="m",
            device="a",
            target="t",
            sync=self.sync,
            copy_mode=self.rng.choice(["background", "write-blocking"]),
            granularity=self.rng.choice([1, 4, 64]) * KIB,
            speed=self.rng.choice([0, 0, 0, 300 * KIB]),
            auto_finalize=self.rng.random() < 0.7,
            on_source_error=self.rng.choice(policies),
            on_target_error=self.rng.choice(policies),
            buf_size=self.rng.choice([0, 64 * KIB]),
        )
        self.job = self.layer.jobs["m"]

    async def verbs(self) -> None:
        """Use verbs by chance, and in the end whatever makes the job end."""
        for _ in range(self.rng.randrange(12)):
            await self.clock.sleep(self.rng.random() * 0.1)
            await self._verb(self.rng.random())
        self.storage.faults.clear()
        while "m" in self.layer.jobs:
            await self.clock.sleep(0.05)
            if self.clock.monotonic() > PATIENCE_S:  # after a failed flush all others fail too
                assert self.faults, self.job.info()
                await self._try("block-job-cancel", device="m", force=True)
            await self._try("job-resume", id="m")
            await self._try("block-job-set-speed", device="m", speed=0)
            await self._try(self.rng.choice(["job-complete", "job-finalize"]), id="m")

    async def _verb(self, chance: float) -> None:
        if chance < 0.2:
            await self._try("job-pause", id="m")
        elif chance < 0.5:
            await self._try("job-resume", id="m")
        elif chance < 0.6:
            await self._try("block-job-set-speed", device="m", speed=self.rng.choice([0, 64 * KIB]))
        elif chance < 0.7:
            await self._try("job-complete", id="m")
        elif chance < 0.75:
            await self._try("block-job-cancel", device="m")
        elif chance < 0.78:
            await self._try("block-job-cancel", device="m", force=True)
        elif chance < 0.84 and self.newest:
            change = {"id": "m", "type": "mirror", "copy_mode": "write-blocking"}
            await self._try("block-job-change", **change)
        elif self.faults:
            self._order_fault()

    def _order_fault(self) -> None:
        if self.stats["compared"]:
            return  # the target is the guest's disk
        target = "/b" if self.commits else "/t"
        path, operation = self.rng.choice(
            [(target, "pwrite"), (target, "write_zeroes"), (target, "flush"), ("/a", "pread")]
        )
        code = self.rng.choice([errno.EIO, errno.ENOSPC])
        times = self.rng.choice([1, 1, 2, 5])
        self.storage.faults.add(Fault(f"storage.{operation}", code, {"path": path}, times=times))

    # Invariants

    async def _compare(self, point: str, facts: Any) -> None:
        """The mirror ends well: nobody writes, and both nodes hold the same."""
        del point
        if facts["job"] != self.job.id:
            return
        self.storage.faults.clear()
        self.stats["compared"] += 1
        try:
            await self._compare_nodes()
        except AssertionError as error:
            self.verdict = error  # raised here it would be a bug of the job, which it survives

    async def _compare_nodes(self) -> None:
        source = bytes(await self.layer.graph.nodes["a"].pread(0, self.size))
        target = bytes(await self.layer.graph.nodes["t"].pread(0, self.size))
        for offset in range(0, self.size, SECTOR):
            same = source[offset : offset + SECTOR] == target[offset : offset + SECTOR]
            assert same, f"{self.job.options}: the target differs at {offset}"
        self._check(source, 0)

    async def check_end(self) -> None:
        """Nothing of the mirror is left; the guest goes on with what it had."""
        if self.verdict is not None:
            raise self.verdict
        graph = self.layer.graph
        (end,) = (one for one in self.events if one["event"].startswith("BLOCK_JOB_C"))
        outcome = "failed" if "error" in end["data"] else end["event"].lower()
        pivoted = self.guest.node is graph.nodes["t"]
        self.stats[f"{outcome}{' and pivoted' if pivoted else ''}"] += 1
        self.stats["commits"] += self.commits
        assert outcome == "block_job_completed" or not pivoted
        for name in ("a", "t"):
            node = graph.nodes[name]
            assert not node.job_bitmaps
            reasons = [reason for reasons in node.blockers.values() for reason in reasons]
            assert not [reason for reason in reasons if "job" in reason]
            assert not node.sections
        assert not [node for node in graph.nodes.values() if node.implicit]
        self._check(bytes(await self._read(0, self.size)), 0)


async def run(loop: SimulatedLoop, seed: int, *, faults: bool) -> Counter[str]:
    """Let one mirror live and end; raise what breaks an invariant."""
    world = World(loop, seed, faults=faults)
    await world.build()
    guests = asyncio.ensure_future(world.guests())
    await world.clock.sleep(world.rng.random() * 0.1)
    await world.mirror()
    await world.verbs()
    await guests
    await world.check_end()
    await world.layer.shutdown()
    return world.stats
