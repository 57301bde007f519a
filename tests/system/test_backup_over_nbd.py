"""Backups from and to an NBD server that dies: the error policies, and the invariants of bitmaps.

The whole runs on the simulated loop; the moment at which the server dies comes from the seed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from blkxact.block_layer import BlockLayer
from blkxact.errors import ErrorClass, QmpError
from blkxact.runtime.events import EventSink
from blkxact.testing.loop import SimulatedLoop, run_simulated
from blkxact.testing.memory_file import MemoryStorage
from tests.nbd.simulated import PATH, Simulated

from .conftest import Emulator

MIB = 1 << 20
SIZE = 2 * MIB
SPEED = MIB
"""Bytes a second: a backup takes two seconds of virtual time."""
RUNS = 4
SERVER = {"type": "unix", "path": PATH}


class NbdEmulator(Emulator):
    """An emulator whose disk ``disk`` is local and whose node ``nbd`` is the server's export."""

    def __init__(self, world: Simulated) -> None:
        super().__init__(MemoryStorage(world.random))
        self.world = world
        sink = EventSink(world.clock)
        sink.subscribe(self.events.append)
        rng = random.Random(2)
        network = world.network
        self.use(BlockLayer(self.storage, world.clock, sink, rng=rng, network=network))

    async def add_nodes(self, **options: Any) -> None:
        await self.create_disk("disk", SIZE)
        await self.add_disk("disk")
        await self.add_export(**options)

    async def add_export(self, **options: Any) -> None:
        members = {"driver": "nbd", "node_name": "nbd", "server": SERVER, "export": "disk"}
        await self.execute("blockdev-add", **{**members, **options})

    async def fill(self, node: str) -> bytes:
        """Write all of a node, and return what it holds then."""
        for at in range(0, SIZE, MIB // 2):
            pattern = self.world.random.randrange(1, 256)
            await self.qemu_io(node, f"write -P {pattern} {at} {MIB // 2}")
        return await self.content(node)

    async def content(self, node: str) -> bytes:
        return bytes(await self.layer.find_node(node).pread(0, SIZE))

    async def backup(self, source: str, target: str, **options: Any) -> None:
        given = {"device": source, "target": target, "job_id": "j", "auto_dismiss": False}
        sync = {"sync": "incremental", "bitmap": "b"}
        await self.execute("blockdev-backup", **{**given, **sync, "speed": SPEED, **options})

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(10_000):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it never came")

    def job(self) -> dict[str, Any]:
        return self.layer.jobs["j"].info()

    async def concluded(self) -> dict[str, Any]:
        """Wait for the end of the job; dismiss it; return what it said."""
        await self.until(lambda: self.job()["status"] == "concluded")
        job = self.job()
        await self.execute("job-dismiss", id="j")
        return job


Test = Callable[[NbdEmulator], Awaitable[None]]


def simulate(test: Test, seed: int, **options: Any) -> None:
    """Run a test several times, the server dying at other moments."""

    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop, SIZE)
        await world.serve()
        emulator = NbdEmulator(world)
        await emulator.add_nodes(**options)
        await test(emulator)
        await emulator.layer.shutdown()
        assert not emulator.layer.graph.nodes
        await world.close()

    for run in range(RUNS):
        run_simulated(main, seed + run)


async def start_and_kill(emulator: NbdEmulator, source: str, target: str, **options: Any) -> bytes:
    """Start an incremental backup of a full disk, and kill the server in the middle of it."""
    await emulator.execute("block-dirty-bitmap-add", node=source, name="b")
    content = await emulator.fill(source)
    await emulator.layer.find_node(source).flush()
    await emulator.backup(source, target, **options)
    await asyncio.sleep(0.1 + 0.8 * emulator.world.random.random())
    emulator.world.kill()
    return content


async def check_retry(emulator: NbdEmulator, content: bytes) -> None:
    """Check that another increment, to the export opened anew, makes it good."""
    assert emulator.bitmaps("disk")["b"]["busy"] is False
    assert emulator.bitmaps("disk")["b"]["count"] == SIZE
    emulator.world.start()
    await emulator.execute("blockdev-del", node_name="nbd")
    await emulator.add_export()
    await emulator.backup("disk", "nbd", speed=0)
    assert (await emulator.concluded()).get("error") is None
    assert await emulator.content("nbd") == content
    assert emulator.bitmaps("disk")["b"]["count"] == 0


@pytest.mark.parametrize("policy", ["report", "enospc"])
def test_target_that_dies_fails_the_job_and_the_bitmap_keeps_all(sim_seed, policy) -> None:
    async def test(emulator: NbdEmulator) -> None:
        content = await start_and_kill(emulator, "disk", "nbd", on_target_error=policy)
        assert (await emulator.concluded())["error"] == "Input/output error"
        error = {"device": "j", "operation": "write", "action": "report"}
        assert emulator.named("BLOCK_JOB_ERROR") == [error]
        await check_retry(emulator, content)

    simulate(test, sim_seed)


def test_target_that_dies_stops_the_job_and_no_flush_hides_what_was_lost(sim_seed) -> None:
    async def test(emulator: NbdEmulator) -> None:
        content = await start_and_kill(emulator, "disk", "nbd", on_target_error="stop")
        await emulator.until(lambda: emulator.job()["status"] == "paused")
        emulator.world.start()
        await asyncio.sleep(20)
        # Twice at least: when the connection is found to be gone, and at the flush in the end.
        while emulator.job()["total-progress"] != emulator.job()["current-progress"]:
            await emulator.execute("job-resume", id="j")
            await emulator.until(lambda: emulator.job()["status"] == "paused")
            await asyncio.sleep(20)
        await emulator.execute("job-cancel", id="j")
        await emulator.concluded()
        await check_retry(emulator, content)

    simulate(test, sim_seed)


def test_target_that_dies_and_is_ignored_fails_the_job_at_its_flush(sim_seed) -> None:
    async def test(emulator: NbdEmulator) -> None:
        content = await start_and_kill(emulator, "disk", "nbd", on_target_error="ignore")
        await emulator.until(lambda: emulator.named("BLOCK_JOB_ERROR"))
        emulator.world.start()
        assert (await emulator.concluded())["error"] == "Input/output error"
        assert emulator.named("BLOCK_JOB_ERROR")[-1]["action"] == "report"
        await check_retry(emulator, content)

    simulate(test, sim_seed)


def test_target_that_is_back_within_the_delay_is_not_noticed(sim_seed) -> None:
    async def test(emulator: NbdEmulator) -> None:
        content = await start_and_kill(emulator, "disk", "nbd")
        await asyncio.sleep(5)
        assert emulator.job()["status"] == "running"
        emulator.world.start()
        assert (await emulator.concluded()).get("error") is None
        assert not emulator.named("BLOCK_JOB_ERROR")
        assert await emulator.content("nbd") == await emulator.world.content() == content
        assert emulator.bitmaps("disk")["b"]["count"] == 0

    simulate(test, sim_seed, reconnect_delay=60)


def test_target_that_stays_away_longer_than_the_delay_stops_the_job(sim_seed) -> None:
    """Whoever sets a delay vouches for the server: the job may be resumed."""

    async def test(emulator: NbdEmulator) -> None:
        content = await start_and_kill(emulator, "disk", "nbd", on_target_error="stop")
        await emulator.until(lambda: emulator.job()["status"] == "paused")
        emulator.world.start()
        await asyncio.sleep(20)
        await emulator.execute("job-resume", id="j")
        assert (await emulator.concluded()).get("error") is None
        assert await emulator.content("nbd") == content

    simulate(test, sim_seed, reconnect_delay=3)


@pytest.mark.parametrize("policy", ["report", "enospc"])
def test_source_that_dies_fails_the_job_and_the_bitmap_keeps_all(sim_seed, policy) -> None:
    async def test(emulator: NbdEmulator) -> None:
        content = await start_and_kill(emulator, "nbd", "disk", on_source_error=policy)
        assert (await emulator.concluded())["error"] == "Input/output error"
        error = {"device": "j", "operation": "read", "action": "report"}
        assert emulator.named("BLOCK_JOB_ERROR") == [error]
        assert emulator.bitmaps("nbd")["b"]["count"] == SIZE
        emulator.world.start()
        await failing_read(emulator)
        await emulator.backup("nbd", "disk", speed=0)
        assert (await emulator.concluded()).get("error") is None
        assert await emulator.content("disk") == content
        assert emulator.bitmaps("nbd")["b"]["count"] == 0

    simulate(test, sim_seed)


async def failing_read(emulator: NbdEmulator) -> None:
    """Let the node find out that its server is there again."""
    node = emulator.layer.find_node("nbd")
    for _ in range(3):
        await asyncio.gather(node.pread(0, 1), return_exceptions=True)
        await asyncio.sleep(20)


@pytest.mark.parametrize("policy", ["stop", "ignore"])
def test_source_that_is_back_is_read_to_its_end(sim_seed, policy) -> None:
    async def test(emulator: NbdEmulator) -> None:
        content = await start_and_kill(emulator, "nbd", "disk", on_source_error=policy)
        await emulator.until(lambda: emulator.named("BLOCK_JOB_ERROR"))
        emulator.world.start()
        if policy == "stop":
            await emulator.until(lambda: emulator.job()["status"] == "paused")
            await asyncio.sleep(20)
            await emulator.execute("job-resume", id="j")
        assert (await emulator.concluded()).get("error") is None
        assert await emulator.content("disk") == content
        assert emulator.bitmaps("nbd")["b"]["count"] == 0

    simulate(test, sim_seed)


def test_cancelled_job_does_not_wait_for_its_target(sim_seed) -> None:
    async def test(emulator: NbdEmulator) -> None:
        await start_and_kill(emulator, "disk", "nbd")
        await asyncio.sleep(3)
        began = emulator.world.clock.monotonic()
        await emulator.execute("job-cancel", id="j")
        await emulator.until(lambda: emulator.job()["status"] == "concluded")
        assert emulator.world.clock.monotonic() - began < 1
        assert emulator.bitmaps("disk")["b"]["count"] == SIZE

    simulate(test, sim_seed, reconnect_delay=1000)


def test_emulator_ends_at_once_while_a_job_waits_for_its_target(sim_seed) -> None:
    async def test(emulator: NbdEmulator) -> None:
        await start_and_kill(emulator, "disk", "nbd")
        await asyncio.sleep(3)
        began = emulator.world.clock.monotonic()
        await emulator.layer.shutdown()
        assert emulator.world.clock.monotonic() - began < 1

    simulate(test, sim_seed, reconnect_delay=1000)


def test_deferred_transaction_keeps_both_bitmaps_when_one_target_dies(sim_seed) -> None:
    async def test(emulator: NbdEmulator) -> None:
        await emulator.create_disk("other", SIZE)
        await emulator.add_disk("other")
        await emulator.create_disk("local", SIZE)
        await emulator.add_disk("local")
        for node in ("disk", "other"):
            await emulator.execute("block-dirty-bitmap-add", node=node, name="b")
            await emulator.fill(node)
        sync = {"sync": "incremental", "bitmap": "b", "speed": SPEED}
        actions = [
            {"type": "blockdev-backup",
             "data": {"device": "disk", "target": "nbd", "job-id": "one", **sync}},
            {"type": "blockdev-backup",
             "data": {"device": "other", "target": "local", "job-id": "two", **sync}},
        ]  # fmt: skip
        properties = {"completion-mode": "deferred", "id": "t"}
        await emulator.execute("transaction", actions=actions, properties=properties)
        await asyncio.sleep(0.1 + 0.8 * emulator.world.random.random())
        emulator.world.kill()
        await emulator.until(lambda: emulator.named("TRANSACTION_COMPLETED"))
        for node in ("disk", "other"):
            assert emulator.bitmaps(node)["b"]["count"] == SIZE
            assert emulator.bitmaps(node)["b"]["busy"] is False

    simulate(test, sim_seed)


def test_drive_backup_makes_its_target_in_the_export(sim_seed) -> None:
    """A raw export is no new file: what it held before must not show through."""

    async def test(emulator: NbdEmulator) -> None:
        await emulator.fill("nbd")
        await emulator.execute("blockdev-del", node_name="nbd")
        await emulator.qemu_io("disk", f"write -P 7 {MIB} 64k")
        target = f"nbd+unix:///disk?socket={PATH}"
        words = {"device": "disk", "job_id": "j", "auto_dismiss": False, "target": target}
        await emulator.execute("drive-backup", **words, sync="full", format="raw")
        assert (await emulator.concluded()).get("error") is None
        assert await emulator.world.content() == await emulator.content("disk")

    simulate(test, sim_seed)


YANK = {"type": "block-node", "node-name": "nbd"}


def test_server_that_does_not_answer_any_more_is_cut_off(sim_seed) -> None:
    async def test(emulator: NbdEmulator) -> None:
        await emulator.execute("block-dirty-bitmap-add", node="disk", name="b")
        await emulator.fill("disk")
        emulator.world.storage.latency = 1e6
        await emulator.backup("disk", "nbd")
        await asyncio.sleep(60)
        assert emulator.job()["status"] == "running"
        assert await emulator.execute("query-yank") == [YANK]
        await emulator.execute("yank", instances=[YANK])
        assert (await emulator.concluded())["error"] == "Input/output error"
        assert emulator.bitmaps("disk")["b"]["count"] == SIZE
        emulator.world.storage.latency = None
        await failing_read(emulator)
        with pytest.raises(OSError, match="Input/output error"):
            await emulator.layer.find_node("nbd").pread(0, 1)

    simulate(test, sim_seed, reconnect_delay=1000)


def test_only_what_has_a_connection_can_be_cut_off(sim_seed) -> None:
    async def test(emulator: NbdEmulator) -> None:
        for other in (
            {"type": "block-node", "node-name": "disk"},
            {"type": "chardev", "id": "nbd"},
            {"type": "migration"},
        ):
            with pytest.raises(QmpError, match="Instance not found") as caught:
                await emulator.execute("yank", instances=[YANK, other])
            assert caught.value.error_class is ErrorClass.DEVICE_NOT_FOUND
        assert len(await emulator.content("nbd")) == SIZE

    simulate(test, sim_seed)
