"""Points in time under fire: guests, readers, discards and faults by chance, beside a bytearray."""

from __future__ import annotations

import asyncio
import errno
import random
from collections import Counter
from typing import Any

import pytest

from blkxact.bitmap import DirtyBitmap
from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission, Status
from blkxact.testing.loop import current_loop, run_simulated
from tests.memory_disks import BLOCK

from .fleecing import CLUSTER, LENGTH, Fleecing

GUESTS = 3
READERS = 3
STEPS = 40
ROUNDS = 12
SLOW_S = 3.0
"""Longer than ``cbw-timeout``."""


class World:
    """One run. ``old``: what the disk was; ``allowed``: which of its clusters may be read."""

    def __init__(self, rng: random.Random, options: dict[str, Any], *, failures: float) -> None:
        self.rng = rng
        self.options = dict(options)
        self.failures = failures
        self.stats: Counter[str] = Counter()
        self.log: list[tuple[Any, ...]] = []
        self.guests_over = False

    async def build(self, *, by_backing_file: bool) -> None:
        disks = self.disks = Fleecing(current_loop().clock)
        for _ in range(40):
            start = self.rng.randrange(LENGTH // BLOCK) * BLOCK
            disks.source.fill(start, self.rng.randbytes(BLOCK))
        self.old = bytes(disks.source.file.data)
        self.new = bytearray(self.old)
        self.allowed = [True] * (LENGTH // CLUSTER)
        if self.options.pop("partial", False):
            self._limit()
        if by_backing_file:
            disks.disks.backing("target", "source")
        await disks.open(**self.options)
        self.reader = disks.reader
        if by_backing_file:
            self.reader = BlockBackend(disks.graph, perm=Permission.CONSISTENT_READ)
            self.reader.insert(disks.graph.nodes["target"])
        disks.target.pdiscard = self._discard_target  # type: ignore[method-assign]
        disks.source.hook, disks.target.hook = self._delay, self._delay_or_fail

    def _limit(self) -> None:
        bitmap = DirtyBitmap(LENGTH, CLUSTER, "b0")
        for cluster in range(len(self.allowed)):
            self.allowed[cluster] = self.rng.random() < 0.7
            if self.allowed[cluster]:
                bitmap.mark(cluster * CLUSTER, 1)
        self.disks.graph.nodes["source"].bitmaps["b0"] = bitmap
        self.options["bitmap"] = {"node": "source", "name": "b0"}

    async def _delay(self, *_request: Any) -> None:
        if self.rng.random() < 0.7:
            await asyncio.sleep(self.rng.random() * 0.01)

    async def _delay_or_fail(self, name: str, *_range: int) -> None:
        """What goes to the target fails, or takes too long, now and then."""
        await self._delay()
        if name in {"copy", "write", "zero"} and self.rng.random() < self.failures:
            if self.rng.random() < 0.5:
                await asyncio.sleep(SLOW_S)
            else:
                raise OSError(errno.ENOSPC, "scratch is full")

    async def _discard_target(self, offset: int, length: int) -> None:
        self.disks.target.fill(offset, b"\xdd" * length)

    def _note(self, *what: Any) -> None:
        self.stats[what[0]] += 1
        self.log.append(what)

    # Guests: each has a part of the disk for itself, cut through clusters

    async def guest(self, number: int) -> None:
        part = LENGTH // GUESTS
        for step in range(STEPS):
            await asyncio.sleep(self.rng.random() * 0.02)
            length = self.rng.choice([1, 512, 5000, CLUSTER, 2 * CLUSTER])
            offset = number * part + self.rng.randrange(part - length)
            data = bytes([step + 1]) * length if self.rng.random() < 0.7 else bytes(length)
            try:
                if any(data):
                    await self.disks.guest.pwrite(offset, data)
                else:
                    await self.disks.guest.pwrite_zeroes(offset, length)
            except OSError:
                assert self.failures
                assert self.options["on-cbw-error"] == "break-guest-write"
                self._note("guest failed", offset, length)
                continue
            self._note("guest wrote", offset, length)
            self.new[offset : offset + length] = data

    # Readers

    def _range(self) -> tuple[int, int]:
        length = self.rng.choice([1, 512, 70000, 3 * CLUSTER])
        return self.rng.randrange(LENGTH - length), length

    def _readable(self, offset: int, length: int) -> bool:
        clusters = range(offset // CLUSTER, -(-(offset + length) // CLUSTER))
        return not self.disks.cbw.point.error and all(self.allowed[one] for one in clusters)

    async def read(self) -> None:
        while not self.guests_over:
            await asyncio.sleep(self.rng.random() * 0.01)
            offset, length = self._range()
            before = self._readable(offset, length)
            maps = self.rng.random() < 0.3
            try:
                await (self._map(offset, length) if maps else self._read(offset, length))
            except PermissionError:  # EACCES
                assert not self._readable(offset, length), "denied though it may be read"
                self._note("denied", offset, length)
            else:
                assert before, "not denied"
                self._note("map" if maps else "read", offset, length)

    async def _read(self, offset: int, length: int) -> None:
        data = bytes(await self.reader.pread(offset, length))
        assert data == self.old[offset : offset + length], f"wrong at {offset}"

    async def _map(self, offset: int, length: int) -> None:
        extents = await self.reader.block_status(offset, length)
        assert sum(extent.length for extent in extents) == length
        for extent in extents:
            assert extent.file is None
            if extent.status & Status.ZERO:
                end = extent.offset + extent.length
                assert not any(self.old[extent.offset : end]), f"no zeroes at {extent.offset}"

    async def discard(self) -> None:
        while not self.guests_over:
            await asyncio.sleep(self.rng.random() * 0.3)
            offset, length = self._range()
            first, last = -(-offset // CLUSTER), (offset + length) // CLUSTER
            self.allowed[first:last] = [False] * max(0, last - first)
            await self.reader.pdiscard(offset, length)
            self._note("discard", offset, length)

    async def run(self, *, discards: bool) -> None:
        others = [asyncio.create_task(self.read()) for _ in range(READERS)]
        if discards:
            others.append(asyncio.create_task(self.discard()))
        await asyncio.gather(*(self.guest(number) for number in range(GUESTS)))
        self.guests_over = True
        await asyncio.gather(*others)
        assert bytes(self.disks.source.file.data) == bytes(self.new)
        await self.disks.cbw.node.idle()
        await self.disks.cbw.close()


KINDS = {
    "plain": {},
    "bitmap": {"partial": True},
    "guests fail": {"on-cbw-error": "break-guest-write", "cbw-timeout": 1},
    "snapshot breaks": {"on-cbw-error": "break-snapshot", "cbw-timeout": 1},
}
FAILURES = {"guests fail": 0.2, "snapshot breaks": 0.02}


def simulate(seed: int, kind: str, *, by_backing_file: bool = False) -> World:
    world = World(random.Random(seed), KINDS[kind], failures=FAILURES.get(kind, 0))

    async def main() -> None:
        await world.build(by_backing_file=by_backing_file)
        await world.run(discards=not by_backing_file)

    run_simulated(main(), seed)
    return world


@pytest.mark.parametrize("kind", KINDS)
def test_point_in_time_is_read_or_denied_but_never_wrong(sim_seed: int, kind: str) -> None:
    stats: Counter[str] = Counter()
    for seed in range(sim_seed, sim_seed + ROUNDS):
        stats += simulate(seed, kind).stats
    wanted = {"guest wrote", "read", "map", "denied", "discard"}
    wanted |= {"guest failed"} if kind == "guests fail" else set()
    assert wanted <= stats.keys(), "a run that does nothing keeps all invariants"


def test_target_over_the_live_disk_reads_as_the_point_in_time(sim_seed: int) -> None:
    for seed in range(sim_seed, sim_seed + ROUNDS):
        stats = simulate(seed, "plain", by_backing_file=True).stats
        assert {"guest wrote", "read", "map"} <= stats.keys()
        assert not stats["denied"]


def test_simulated_fleecing_is_the_same_from_the_same_seed(sim_seed: int) -> None:
    first, second = (simulate(sim_seed, "snapshot breaks").log for _ in range(2))
    assert first == second
