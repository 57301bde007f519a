"""Faults, pauses, steps and time, as the tests of a backup tool order them."""

from __future__ import annotations

import asyncio
import errno
import threading
from contextlib import suppress

import pytest
from qemu.qmp import QMPClient

from blkxact.kit import KitError, QmpError

MIB = 1 << 20


@pytest.fixture
def disk(blkxact):
    disk = blkxact.disk("vda", size="4M")
    blkxact.guest.write("vda", 0, b"x" * (4 * MIB))
    blkxact.guest.flush("vda")
    return disk


def start_backup(blkxact, tmp_path, **options):
    path = str(tmp_path / "target.qcow2")
    options = {"job_id": "j0", "sync": "full", "format": "qcow2", **options}
    blkxact.execute("drive-backup", device="vda", target=path, **options)


def over(blkxact):
    return blkxact.events.wait("BLOCK_JOB_COMPLETED", device="j0")


async def connected(blkxact):
    client = QMPClient("test")
    await client.connect(blkxact.qmp)
    return client


@pytest.mark.parametrize("place", ["target.write", "j0.target.write"])
def test_request_of_a_role_fails_the_nth_time(blkxact, disk, tmp_path, place):
    fault = blkxact.faults.at(place, nth=3, errno=errno.ENOSPC)
    start_backup(blkxact, tmp_path)
    assert over(blkxact)["error"] == "No space left on device"
    assert fault.struck == 1


def test_request_of_a_named_node_fails_from_then_on_until_the_fault_is_removed(blkxact, disk):
    fault = blkxact.faults.at("vda.write", times=None)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            blkxact.guest.write("vda", 0, b"y")
    fault.remove()
    blkxact.guest.write("vda", 0, b"y")
    assert fault.struck == 2


def test_fault_counts_on_after_a_restart(blkxact, disk):
    fault = blkxact.faults.at("vda.write", nth=2)
    blkxact.guest.write("vda", 0, b"y")
    blkxact.restart()
    with pytest.raises(OSError, match="Input/output error"):
        blkxact.guest.write("vda", 0, b"y")
    assert fault.struck == 1


def test_point_fails_where_its_facts_are(blkxact, disk):
    blkxact.faults.at("transaction.prepare", action="block-dirty-bitmap-add", error="no", nth=2)
    add = {"type": "block-dirty-bitmap-add", "data": {"node": "vda", "name": "b0"}}
    also = {"type": "block-dirty-bitmap-add", "data": {"node": "vda", "name": "b1"}}
    with pytest.raises(QmpError, match="no"):
        blkxact.execute("transaction", actions=[add, also])
    with pytest.raises(QmpError, match="not found"):
        blkxact.dirty("vda", "b0")


def test_torn_write_leaves_a_part(blkxact, disk):
    blkxact.faults.torn(str(disk.path))
    with pytest.raises(OSError, match="No space left"):
        blkxact.guest.write("vda", 0, b"y" * 65536)
    assert blkxact.contents("vda", 32767, 2) == b"yx"


@pytest.mark.parametrize(
    ("place", "facts", "message"),
    [
        ("vda.destroy", {}, "there is no point 'vda.destroy'; a node's requests are NODE.read"),
        ("transaction.commit", {}, "nothing can fail at transaction.commit"),
        ("job.step", {"node": "x"}, "job.step has no fact 'node'; it has job"),
        ("vda.write", {"error": "text"}, "what fails at request.write has no text"),
        ("vda.write", {"nth": 0}, "nth=0: the first time is 1"),
    ],
)
def test_fault_with_a_mistake_is_refused(blkxact, place, facts, message):
    with pytest.raises(KitError, match=message):
        blkxact.faults.at(place, **facts)


async def test_reply_is_dropped_after_the_command(blkxact, disk):
    fault = blkxact.faults.on_command("block-dirty-bitmap-add").drop_reply()
    client = await connected(blkxact)
    with pytest.raises(Exception, match=r"EOF|disconnect|Disconnect"):
        await client.execute("block-dirty-bitmap-add", {"node": "vda", "name": "b0"})
    await disconnected(client)
    assert blkxact.dirty("vda", "b0") == []
    assert fault.struck == 1


async def test_connection_is_cut_before_the_command(blkxact, disk):
    blkxact.faults.on_command("block-dirty-bitmap-add").cut()
    client = await connected(blkxact)
    with pytest.raises(Exception, match=r"EOF|disconnect|Disconnect"):
        await client.execute("block-dirty-bitmap-add", {"node": "vda", "name": "b0"})
    await disconnected(client)
    with pytest.raises(QmpError, match="not found"):
        blkxact.dirty("vda", "b0")


async def test_command_is_refused_the_second_time(blkxact, disk):
    blkxact.faults.on_command("query-jobs", nth=2).refuse("Out of jobs")
    client = await connected(blkxact)
    assert await client.execute("query-jobs") == []
    with pytest.raises(Exception, match="Out of jobs"):
        await client.execute("query-jobs")
    await client.disconnect()


async def test_connection_is_cut_before_an_event(blkxact, disk, tmp_path):
    fault = blkxact.faults.before_event("BLOCK_JOB_COMPLETED")
    client = await connected(blkxact)
    start_backup(blkxact, tmp_path)
    await blkxact.events.arrive("JOB_STATUS_CHANGE", status="null", id="j0")
    with suppress(EOFError):
        await client.disconnect()
    assert fault.struck == 1


async def disconnected(client):
    with pytest.raises(EOFError):
        await client.disconnect()


def test_emulator_is_killed_exactly_there(blkxact, disk, tmp_path):
    blkxact.execute("block-dirty-bitmap-add", node="vda", name="b0", persistent=True)
    blkxact.restart()
    blkxact.faults.kill_at("transaction.commit", action="drive-backup")
    with pytest.raises(KitError, match="ended before it had answered"):
        start_backup(blkxact, tmp_path)
    blkxact.restart()
    assert blkxact.execute("query-jobs") == []
    assert blkxact.contents("vda", 0, 1) == b"x"


def test_everything_stands_still_until_the_context_is_left(blkxact, disk, tmp_path):
    with blkxact.pause_at("transaction.commit") as pause:
        client = threading.Thread(target=start_backup, args=(blkxact, tmp_path))
        client.start()
        pause.wait()
        with pytest.raises(KitError, match=r"stands still at transaction.commit"):
            blkxact.guest.write("vda", 0, b"y")
        assert not blkxact.events.named("JOB_STATUS_CHANGE", status="running")
    client.join()
    assert "error" not in over(blkxact)


def test_call_right_after_the_pause_is_answered(blkxact, disk):
    for number in range(50):
        name = f"b{number}"
        with (
            blkxact.pause_at("command.execute", command="block-dirty-bitmap-add"),
            pytest.raises(KitError, match="stands still"),
        ):
            blkxact.execute("block-dirty-bitmap-add", node="vda", name=name)
        assert blkxact.dirty("vda", name) == []


def test_call_of_the_thread_that_holds_the_emulator_does_not_wait(blkxact, disk, tmp_path):
    with (
        blkxact.pause_at("transaction.prepare", action="drive-backup"),
        pytest.raises(KitError, match=r"stands still at transaction.prepare"),
    ):
        start_backup(blkxact, tmp_path)
    assert "error" not in over(blkxact)


def test_emulator_is_killed_where_it_stands(blkxact, disk, tmp_path):
    with blkxact.pause_at("transaction.commit") as pause:
        client = threading.Thread(target=lambda: _killed(blkxact, tmp_path))
        client.start()
        pause.wait()
        blkxact.kill()
    client.join()
    blkxact.restart()
    assert blkxact.contents("vda", 0, 1) == b"x"


def _killed(blkxact, tmp_path):
    with pytest.raises(KitError):
        start_backup(blkxact, tmp_path)


async def test_asyncio_client_pauses_and_goes_on(blkxact, disk):
    client = await connected(blkxact)
    async with blkxact.pause_at("command.execute", command="query-jobs") as pause:
        reply = client.execute("query-jobs")

        task = asyncio.ensure_future(reply)
        await pause.arrive()
        assert not task.done()
    assert await task == []
    await client.disconnect()


def test_place_that_is_not_reached_is_reported(blkxact):
    with (
        blkxact.pause_at("transaction.commit") as pause,
        pytest.raises(KitError, match=r"transaction.commit was not reached within 0.01 s"),
    ):
        pause.wait(timeout=0.01)


def test_job_does_one_piece_at_each_step(blkxact, disk, tmp_path):
    assert blkxact.step("j0")
    start_backup(blkxact, tmp_path, speed=1 << 40)
    done = []
    while blkxact.step("j0"):
        done.append(blkxact.execute("query-jobs")[0]["current-progress"])
    assert len(done) > 1
    assert done == sorted(done)
    assert "error" not in over(blkxact)


def test_job_that_is_released_goes_on(blkxact, disk, tmp_path):
    blkxact.step("j0")
    start_backup(blkxact, tmp_path, speed=1 << 40)
    blkxact.step("j0")
    assert not blkxact.events.named("BLOCK_JOB_COMPLETED")
    blkxact.release("j0")
    assert "error" not in over(blkxact)


def test_time_passes_at_once_for_a_speed_limit(blkxact, disk, tmp_path):
    start_backup(blkxact, tmp_path, speed=1024)  # more than an hour
    blkxact.clock.advance(3 * 3600)
    assert "error" not in over(blkxact)


def test_time_that_passes_is_seen_in_events(blkxact, disk, tmp_path):
    blkxact.clock.advance(86400)
    blkxact.execute("stop")
    before = blkxact.events[-1]["timestamp"]["seconds"]
    blkxact.clock.advance(86400)
    blkxact.execute("cont")
    assert 86400 <= blkxact.events[-1]["timestamp"]["seconds"] - before < 86500
