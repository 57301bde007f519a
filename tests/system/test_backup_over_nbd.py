"""Backups from and to an NBD server that dies: the error policies, and the laws of bitmaps.

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
from blkxact.events import EventSink
from blkxact.testing.loop import SimulatedLoop, run_simulated
from blkxact.testing.memory_file import MemoryStorage
from tests.nbd.simulated import PATH, Simulated

from .conftest import House

MIB = 1 << 20
SIZE = 2 * MIB
SPEED = MIB
"""Bytes a second: a backup takes two seconds of virtual time."""
RUNS = 4
SERVER = {"type": "unix", "path": PATH}


class Emulator(House):
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


Test = Callable[[Emulator], Awaitable[None]]


def simulate(test: Test, seed: int, **options: Any) -> None:
    """Run a test several times, the server dying at other moments."""

    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop, SIZE)
        await world.serve()
        house = Emulator(world)
        await house.add_nodes(**options)
        await test(house)
        await house.layer.shutdown()
        assert not house.layer.graph.nodes
        await world.close()

    for run in range(RUNS):
        run_simulated(main, seed + run)


async def start_and_kill(house: Emulator, source: str, target: str, **options: Any) -> bytes:
    """Start an incremental backup of a full disk, and kill the server in the middle of it."""
    await house.execute("block-dirty-bitmap-add", node=source, name="b")
    content = await house.fill(source)
    await house.layer.find_node(source).flush()
    await house.backup(source, target, **options)
    await asyncio.sleep(0.1 + 0.8 * house.world.random.random())
    house.world.kill()
    return content


async def check_retry(house: Emulator, content: bytes) -> None:
    """Check that another increment, to the export opened anew, makes it good."""
    assert house.bitmaps("disk")["b"]["busy"] is False
    assert house.bitmaps("disk")["b"]["count"] == SIZE
    house.world.start()
    await house.execute("blockdev-del", node_name="nbd")
    await house.add_export()
    await house.backup("disk", "nbd", speed=0)
    assert (await house.concluded()).get("error") is None
    assert await house.content("nbd") == content
    assert house.bitmaps("disk")["b"]["count"] == 0


@pytest.mark.parametrize("policy", ["report", "enospc"])
def test_target_that_dies_fails_the_job_and_the_bitmap_keeps_all(sim_seed, policy) -> None:
    async def test(house: Emulator) -> None:
        content = await start_and_kill(house, "disk", "nbd", on_target_error=policy)
        assert (await house.concluded())["error"] == "Input/output error"
        error = {"device": "j", "operation": "write", "action": "report"}
        assert house.named("BLOCK_JOB_ERROR") == [error]
        await check_retry(house, content)

    simulate(test, sim_seed)


def test_target_that_dies_stops_the_job_and_no_flush_hides_what_was_lost(sim_seed) -> None:
    async def test(house: Emulator) -> None:
        content = await start_and_kill(house, "disk", "nbd", on_target_error="stop")
        await house.until(lambda: house.job()["status"] == "paused")
        house.world.start()
        await asyncio.sleep(20)
        # Twice at least: when the connection is found to be gone, and at the flush in the end.
        while house.job()["total-progress"] != house.job()["current-progress"]:
            await house.execute("job-resume", id="j")
            await house.until(lambda: house.job()["status"] == "paused")
            await asyncio.sleep(20)
        await house.execute("job-cancel", id="j")
        await house.concluded()
        await check_retry(house, content)

    simulate(test, sim_seed)


def test_target_that_dies_and_is_ignored_fails_the_job_at_its_flush(sim_seed) -> None:
    async def test(house: Emulator) -> None:
        content = await start_and_kill(house, "disk", "nbd", on_target_error="ignore")
        await house.until(lambda: house.named("BLOCK_JOB_ERROR"))
        house.world.start()
        assert (await house.concluded())["error"] == "Input/output error"
        assert house.named("BLOCK_JOB_ERROR")[-1]["action"] == "report"
        await check_retry(house, content)

    simulate(test, sim_seed)


def test_target_that_is_back_within_the_delay_is_not_noticed(sim_seed) -> None:
    async def test(house: Emulator) -> None:
        content = await start_and_kill(house, "disk", "nbd")
        await asyncio.sleep(5)
        assert house.job()["status"] == "running"
        house.world.start()
        assert (await house.concluded()).get("error") is None
        assert not house.named("BLOCK_JOB_ERROR")
        assert await house.content("nbd") == await house.world.content() == content
        assert house.bitmaps("disk")["b"]["count"] == 0

    simulate(test, sim_seed, reconnect_delay=60)


def test_target_that_stays_away_longer_than_the_delay_stops_the_job(sim_seed) -> None:
    """Whoever sets a delay vouches for the server: the job may be resumed."""

    async def test(house: Emulator) -> None:
        content = await start_and_kill(house, "disk", "nbd", on_target_error="stop")
        await house.until(lambda: house.job()["status"] == "paused")
        house.world.start()
        await asyncio.sleep(20)
        await house.execute("job-resume", id="j")
        assert (await house.concluded()).get("error") is None
        assert await house.content("nbd") == content

    simulate(test, sim_seed, reconnect_delay=3)


@pytest.mark.parametrize("policy", ["report", "enospc"])
def test_source_that_dies_fails_the_job_and_the_bitmap_keeps_all(sim_seed, policy) -> None:
    async def test(house: Emulator) -> None:
        content = await start_and_kill(house, "nbd", "disk", on_source_error=policy)
        assert (await house.concluded())["error"] == "Input/output error"
        error = {"device": "j", "operation": "read", "action": "report"}
        assert house.named("BLOCK_JOB_ERROR") == [error]
        assert house.bitmaps("nbd")["b"]["count"] == SIZE
        house.world.start()
        await failing_read(house)
        await house.backup("nbd", "disk", speed=0)
        assert (await house.concluded()).get("error") is None
        assert await house.content("disk") == content
        assert house.bitmaps("nbd")["b"]["count"] == 0

    simulate(test, sim_seed)


async def failing_read(house: Emulator) -> None:
    """Let the node find out that its server is there again."""
    node = house.layer.find_node("nbd")
    for _ in range(3):
        await asyncio.gather(node.pread(0, 1), return_exceptions=True)
        await asyncio.sleep(20)


@pytest.mark.parametrize("policy", ["stop", "ignore"])
def test_source_that_is_back_is_read_to_its_end(sim_seed, policy) -> None:
    async def test(house: Emulator) -> None:
        content = await start_and_kill(house, "nbd", "disk", on_source_error=policy)
        await house.until(lambda: house.named("BLOCK_JOB_ERROR"))
        house.world.start()
        if policy == "stop":
            await house.until(lambda: house.job()["status"] == "paused")
            await asyncio.sleep(20)
            await house.execute("job-resume", id="j")
        assert (await house.concluded()).get("error") is None
        assert await house.content("disk") == content
        assert house.bitmaps("nbd")["b"]["count"] == 0

    simulate(test, sim_seed)


def test_cancelled_job_does_not_wait_for_its_target(sim_seed) -> None:
    async def test(house: Emulator) -> None:
        await start_and_kill(house, "disk", "nbd")
        await asyncio.sleep(3)
        began = house.world.clock.monotonic()
        await house.execute("job-cancel", id="j")
        await house.until(lambda: house.job()["status"] == "concluded")
        assert house.world.clock.monotonic() - began < 1
        assert house.bitmaps("disk")["b"]["count"] == SIZE

    simulate(test, sim_seed, reconnect_delay=1000)


def test_emulator_ends_at_once_while_a_job_waits_for_its_target(sim_seed) -> None:
    async def test(house: Emulator) -> None:
        await start_and_kill(house, "disk", "nbd")
        await asyncio.sleep(3)
        began = house.world.clock.monotonic()
        await house.layer.shutdown()
        assert house.world.clock.monotonic() - began < 1

    simulate(test, sim_seed, reconnect_delay=1000)


def test_deferred_transaction_keeps_both_bitmaps_when_one_target_dies(sim_seed) -> None:
    async def test(house: Emulator) -> None:
        await house.create_disk("other", SIZE)
        await house.add_disk("other")
        await house.create_disk("local", SIZE)
        await house.add_disk("local")
        for node in ("disk", "other"):
            await house.execute("block-dirty-bitmap-add", node=node, name="b")
            await house.fill(node)
        sync = {"sync": "incremental", "bitmap": "b", "speed": SPEED}
        actions = [
            {"type": "blockdev-backup",
             "data": {"device": "disk", "target": "nbd", "job-id": "one", **sync}},
            {"type": "blockdev-backup",
             "data": {"device": "other", "target": "local", "job-id": "two", **sync}},
        ]  # fmt: skip
        properties = {"completion-mode": "deferred", "id": "t"}
        await house.execute("transaction", actions=actions, properties=properties)
        await asyncio.sleep(0.1 + 0.8 * house.world.random.random())
        house.world.kill()
        await house.until(lambda: house.named("TRANSACTION_COMPLETED"))
        for node in ("disk", "other"):
            assert house.bitmaps(node)["b"]["count"] == SIZE
            assert house.bitmaps(node)["b"]["busy"] is False

    simulate(test, sim_seed)


def test_drive_backup_makes_its_target_in_the_export(sim_seed) -> None:
    """A raw export is no new file: what it held before must not show through."""

    async def test(house: Emulator) -> None:
        await house.fill("nbd")
        await house.execute("blockdev-del", node_name="nbd")
        await house.qemu_io("disk", f"write -P 7 {MIB} 64k")
        target = f"nbd+unix:///disk?socket={PATH}"
        words = {"device": "disk", "job_id": "j", "auto_dismiss": False, "target": target}
        await house.execute("drive-backup", **words, sync="full", format="raw")
        assert (await house.concluded()).get("error") is None
        assert await house.world.content() == await house.content("disk")

    simulate(test, sim_seed)


YANK = {"type": "block-node", "node-name": "nbd"}


def test_server_that_does_not_answer_any_more_is_cut_off(sim_seed) -> None:
    async def test(house: Emulator) -> None:
        await house.execute("block-dirty-bitmap-add", node="disk", name="b")
        await house.fill("disk")
        house.world.storage.latency = 1e6
        await house.backup("disk", "nbd")
        await asyncio.sleep(60)
        assert house.job()["status"] == "running"
        assert await house.execute("query-yank") == [YANK]
        await house.execute("yank", instances=[YANK])
        assert (await house.concluded())["error"] == "Input/output error"
        assert house.bitmaps("disk")["b"]["count"] == SIZE
        house.world.storage.latency = None
        await failing_read(house)
        with pytest.raises(OSError, match="Input/output error"):
            await house.layer.find_node("nbd").pread(0, 1)

    simulate(test, sim_seed, reconnect_delay=1000)


def test_only_what_has_a_connection_can_be_cut_off(sim_seed) -> None:
    async def test(house: Emulator) -> None:
        for other in (
            {"type": "block-node", "node-name": "disk"},
            {"type": "chardev", "id": "nbd"},
            {"type": "migration"},
        ):
            with pytest.raises(QmpError, match="Instance not found") as caught:
                await house.execute("yank", instances=[YANK, other])
            assert caught.value.error_class is ErrorClass.DEVICE_NOT_FOUND
        assert len(await house.content("nbd")) == SIZE

    simulate(test, sim_seed)
