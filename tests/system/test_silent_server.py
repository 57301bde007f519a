"""The end of an emulator while NBD servers do not answer, on the simulated loop.

The server is silent because its disk takes for ever: ``world.storage.latency``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from blkxact.errors import QmpError
from blkxact.machine.options import SHUTDOWN_TIMEOUT_S
from blkxact.testing.loop import SimulatedLoop, run_simulated
from blkxact.testing.waiting import take_turns
from tests.nbd.simulated import Simulated

from .test_backup_over_nbd import SERVER, SIZE, YANK, NbdEmulator
from .test_persistent_bitmaps import stored_bitmaps

FOR_EVER = 1e9
SOON_S = 1.0
"""Virtual seconds within which everything is done that no server holds up."""
Test = Callable[[NbdEmulator], Awaitable[None]]


def simulate(test: Test, seed: int) -> None:
    """Run a test with the disk ``disk``, which has a persistent bitmap, and the export ``nbd``."""

    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop, SIZE)
        await world.serve()
        emulator = NbdEmulator(world)
        await emulator.add_nodes()
        await emulator.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        await emulator.qemu_io("disk", "write 0 64k")
        await test(emulator)
        assert not emulator.layer.graph.nodes
        assert not emulator.layer.graph.yank.names()
        assert not emulator.storage.open_files
        world.storage.latency = None
        await world.close()

    run_simulated(main, seed)


class Slow(random.Random):
    """Makes every request take time: with a seed's numbers some take none."""

    def random(self) -> float:
        return 0.5


def fall_silent(emulator: NbdEmulator) -> None:
    """Let the server answer nothing any more."""
    emulator.world.storage.latency = FOR_EVER
    emulator.world.storage.random = Slow()


async def hang(emulator: NbdEmulator, node: str = "nbd") -> asyncio.Task[str]:
    """Let a request of the guest wait for a server that does not answer."""
    fall_silent(emulator)
    request = asyncio.create_task(emulator.qemu_io(node, "read 0 4k"))
    await asyncio.sleep(SOON_S)
    assert not request.done()
    return request


async def ended(emulator: NbdEmulator, ending: asyncio.Task[None], *, after: float) -> None:
    """Check that the end comes after so many virtual seconds."""
    began = emulator.world.clock.monotonic()
    await ending
    took = emulator.world.clock.monotonic() - began
    assert after - 0.1 <= took <= after + SOON_S


def begin_shutdown(emulator: NbdEmulator) -> asyncio.Task[None]:
    return asyncio.create_task(emulator.layer.shutdown())


def test_sound_disk_is_stored_and_closed_while_another_hangs(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        request = await hang(emulator)
        ending = begin_shutdown(emulator)
        await asyncio.sleep(SOON_S)
        assert list(emulator.layer.graph.nodes) == ["nbd"]
        assert await stored_bitmaps(emulator.storage) == {"b": 65536}
        assert not ending.done()
        await ended(emulator, ending, after=SHUTDOWN_TIMEOUT_S - SOON_S)
        assert "Input/output error" in await request
        assert emulator.layer.cut_off_nodes == ["nbd"]
        assert not emulator.layer.ended_well

    simulate(test, sim_seed)


def test_second_signal_cuts_the_silent_server_at_once(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        request = await hang(emulator)
        ending = begin_shutdown(emulator)
        await asyncio.sleep(SOON_S)
        emulator.layer.cut_off()
        await ended(emulator, ending, after=0)
        await request
        assert not emulator.layer.ended_well

    simulate(test, sim_seed)


def test_client_can_look_and_cut_but_change_nothing_meanwhile(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        request = await hang(emulator)
        ending = begin_shutdown(emulator)
        await asyncio.sleep(SOON_S)
        nodes = await emulator.execute("query-named-block-nodes", flat=True)
        assert [node["node-name"] for node in nodes] == ["nbd"]
        with pytest.raises(QmpError, match="The emulator is shutting down"):
            await emulator.add_disk("disk")
        assert await emulator.execute("query-yank") == [YANK]
        await emulator.execute("yank", instances=[YANK])
        await ended(emulator, ending, after=0)
        await request
        assert not emulator.layer.cut_off_nodes

    simulate(test, sim_seed)


def test_server_that_answers_late_is_not_cut(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        emulator.world.storage.latency = SHUTDOWN_TIMEOUT_S / 4
        await emulator.qemu_io("nbd", "write -P 7 0 4k")
        ending = begin_shutdown(emulator)
        await ending
        assert emulator.layer.ended_well

    simulate(test, sim_seed)


def test_flush_that_is_not_answered_is_cut_though_its_node_has_no_name(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        await emulator.qemu_io("nbd", "write 0 4k")
        fall_silent(emulator)
        ending = begin_shutdown(emulator)
        await asyncio.sleep(SOON_S)
        assert await emulator.execute("query-yank") == [YANK]
        assert await stored_bitmaps(emulator.storage) == {"b": 65536}
        await ended(emulator, ending, after=SHUTDOWN_TIMEOUT_S - SOON_S)
        assert emulator.layer.cut_off_nodes == ["nbd"]
        assert emulator.layer.graph.lost_data

    simulate(test, sim_seed)


def test_node_whose_deletion_hangs_in_its_flush_can_be_cut(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        await emulator.qemu_io("nbd", "write 0 4k")
        fall_silent(emulator)
        deletion = asyncio.create_task(emulator.execute("blockdev-del", node_name="nbd"))
        await asyncio.sleep(SOON_S)
        assert not deletion.done()
        assert await emulator.execute("query-yank") == [YANK]
        await emulator.execute("yank", instances=[YANK])
        await deletion
        emulator.world.storage.latency = None
        await emulator.add_export()
        await emulator.layer.shutdown()

    simulate(test, sim_seed)


@pytest.mark.parametrize("mode", ["individual", "grouped", "deferred"])
def test_job_of_a_sound_disk_ends_while_that_to_a_silent_server_hangs(
    sim_seed: int, mode: str
) -> None:
    async def test(emulator: NbdEmulator) -> None:
        for name in ("other", "copy"):
            await emulator.create_disk(name, SIZE)
            await emulator.add_disk(name)
        await emulator.fill("other")
        await emulator.execute("block-dirty-bitmap-add", node="other", name="c", persistent=True)
        await emulator.qemu_io("other", f"write 0 {SIZE}")
        fall_silent(emulator)
        sync = {"sync": "incremental", "speed": 4096}
        pairs = [("disk", "nbd", "b"), ("other", "copy", "c")]
        actions = [
            {"type": "blockdev-backup",
             "data": {"device": disk, "target": to, "job-id": to, "bitmap": bitmap, **sync}}
            for disk, to, bitmap in pairs
        ]  # fmt: skip
        properties = {"completion-mode": mode, "id": "t"}
        await emulator.execute("transaction", actions=actions, properties=properties)
        await asyncio.sleep(SOON_S)
        ending = begin_shutdown(emulator)
        await asyncio.sleep(SOON_S)
        if mode == "individual":
            assert [job["device"] for job in emulator.named("BLOCK_JOB_CANCELLED")] == ["copy"]
            assert await stored_bitmaps(emulator.storage, "other") == {"c": SIZE}
        await ended(emulator, ending, after=SHUTDOWN_TIMEOUT_S - SOON_S)
        assert {job["device"] for job in emulator.named("BLOCK_JOB_CANCELLED")} == {"nbd", "copy"}
        assert [txn["status"] for txn in emulator.named("TRANSACTION_COMPLETED")] == ["failed"]
        assert await stored_bitmaps(emulator.storage, "other") == {"c": SIZE}
        assert await stored_bitmaps(emulator.storage) == {"b": 65536}

    simulate(test, sim_seed)


def test_transaction_that_waits_for_a_hanging_request_is_freed(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        request = await hang(emulator)
        backup = {"device": "nbd", "target": "/copy", "sync": "full", "job-id": "j"}
        actions = [{"type": "drive-backup", "data": {**backup, "format": "raw"}}]
        transaction = asyncio.create_task(emulator.execute("transaction", actions=actions))
        await asyncio.sleep(SOON_S)
        assert not transaction.done()
        ending = begin_shutdown(emulator)
        await ended(emulator, ending, after=SHUTDOWN_TIMEOUT_S)
        await asyncio.wait([transaction, request])
        assert transaction.exception() is None or isinstance(transaction.exception(), QmpError)
        assert await stored_bitmaps(emulator.storage) == {"b": 65536}

    simulate(test, sim_seed)


def test_command_that_waited_for_its_turn_is_refused_at_the_end(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        async with emulator.layer.lock:
            add = emulator.execute("block-dirty-bitmap-add", node="disk", name="late")
            late = asyncio.create_task(add)
            await take_turns(20)
            ending = begin_shutdown(emulator)
            await take_turns(20)
        await ending
        with pytest.raises(QmpError, match="shutting down"):
            await late

    simulate(test, sim_seed)


# Opening


class Silent(asyncio.BufferedProtocol):
    """The server's side of a connection on which it says nothing."""

    def get_buffer(self, sizehint: int) -> bytearray:
        del sizehint
        return bytearray(4096)


def open_late(emulator: NbdEmulator, **options: object) -> asyncio.Task[None]:
    """Open the node ``late`` at a server that takes connections and does not greet."""
    emulator.world.network.listen("/silent", Silent)
    server = {"type": "unix", "path": "/silent"}
    return asyncio.create_task(emulator.add_export(node_name="late", server=server, **options))


LATE = {"type": "block-node", "node-name": "late"}


@pytest.mark.parametrize("options", [{}, {"open_timeout": 1000}])
def test_other_commands_run_while_a_node_waits_for_its_server(
    sim_seed: int, options: dict[str, object]
) -> None:
    async def test(emulator: NbdEmulator) -> None:
        opening = open_late(emulator, **options)
        await asyncio.sleep(SOON_S)
        began = emulator.world.clock.monotonic()
        nodes = await emulator.execute("query-named-block-nodes", flat=True)
        assert "late" not in {node["node-name"] for node in nodes}
        with pytest.raises(QmpError, match="Duplicate nodes with node-name='late'"):
            await emulator.execute("blockdev-add", driver="null-co", node_name="late")
        with pytest.raises(QmpError, match="Failed to find node"):
            await emulator.execute("blockdev-del", node_name="late")
        assert await emulator.execute("query-yank") == [LATE, YANK]
        assert emulator.world.clock.monotonic() - began < SOON_S
        await emulator.execute("yank", instances=[LATE])
        with pytest.raises(QmpError, match="Connection attempt cancelled by other operation"):
            await opening
        assert await emulator.execute("query-yank") == [YANK]
        await emulator.execute("blockdev-add", driver="null-co", node_name="late")
        await emulator.layer.shutdown()

    simulate(test, sim_seed)


def test_image_whose_server_answers_no_read_is_opened_apart_and_can_be_cut(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        fall_silent(emulator)
        file = {"driver": "nbd", "node-name": "late", "server": SERVER, "export": "disk"}
        opening = asyncio.create_task(
            emulator.execute("blockdev-add", driver="qcow2", node_name="image", file=file)
        )
        await asyncio.sleep(SOON_S)
        began = emulator.world.clock.monotonic()
        for name in ("late", "image"):
            with pytest.raises(QmpError, match="Cannot find device"):
                await emulator.execute("blockdev-snapshot", node=name, overlay="disk")
        assert emulator.world.clock.monotonic() - began < SOON_S
        await emulator.execute("yank", instances=[LATE])
        with pytest.raises(QmpError, match="Input/output error"):
            await opening
        assert not emulator.layer.graph.unlisted
        await emulator.layer.shutdown()

    simulate(test, sim_seed)


def test_shutdown_ends_what_waits_for_a_first_connection_at_once(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        opening = open_late(emulator)
        await asyncio.sleep(SOON_S)
        await ended(emulator, begin_shutdown(emulator), after=0)
        with pytest.raises(QmpError, match="Connection attempt cancelled by other operation"):
            await opening
        assert emulator.layer.ended_well

    simulate(test, sim_seed)


def test_node_that_is_opened_too_late_for_the_shutdown_is_closed_again(sim_seed: int) -> None:
    async def test(emulator: NbdEmulator) -> None:
        async with emulator.layer.lock:
            opening = asyncio.create_task(emulator.add_export(node_name="late"))
            await asyncio.sleep(SOON_S)
            assert emulator.layer.graph.unlisted["late"].is_open
            ending = begin_shutdown(emulator)
            await asyncio.sleep(SOON_S)
        await ended(emulator, ending, after=0)
        with pytest.raises(QmpError, match="shutting down"):
            await opening
        assert not emulator.layer.graph.unlisted

    simulate(test, sim_seed)
