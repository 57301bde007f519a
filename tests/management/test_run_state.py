"""stop, cont and system_reset: the run state, its events, and what is flushed."""

import errno

import pytest

from blkxact.testing.faults import Fault
from blkxact.testing.waiting import until
from tests.system.conftest import MIB, Emulator


async def status(system):
    return (await system.execute("query-status"))["status"]


@pytest.fixture
async def waiting(system):
    """An emulator that was started with -S."""
    system.layer.machine.reset(())
    await system.execute("stop")
    await system.execute("system_reset")
    system.events.clear()
    return system


async def test_status_is_prelaunch_until_the_first_cont(waiting):
    assert await status(waiting) == "prelaunch"
    await waiting.execute("stop")
    assert await status(waiting) == "prelaunch"
    assert waiting.events == []
    await waiting.execute("cont")
    assert await waiting.execute("query-status") == {
        "running": True,
        "singlestep": False,
        "status": "running",
    }


async def test_events_tell_of_changes_only(waiting):
    for command in ("cont", "cont", "stop", "stop"):
        await waiting.execute(command)
    assert [event["event"] for event in waiting.events] == ["RESUME", "STOP"]
    assert await status(waiting) == "paused"


@pytest.mark.parametrize(("before", "after"), [("stop", "prelaunch"), ("cont", "running")])
async def test_reset_of_a_stopped_machine_is_prelaunch(system, before, after):
    await system.execute(before)
    await system.execute("system_reset")
    assert await status(system) == after
    assert system.named("RESET") == [{"guest": False, "reason": "host-qmp-system-reset"}]


async def test_powerdown_is_an_event_that_no_guest_hears(system):
    await system.execute("system_powerdown")
    assert await status(system) == "running"
    assert system.named("POWERDOWN") == [{}]


@pytest.mark.parametrize("running", [True, False])
async def test_stop_flushes_all_disks(system, running):
    await system.create_disk("a", size=MIB)
    await system.add_disk("a")
    if not running:
        await system.execute("stop")
    await system.qemu_io("a", "write -P 7 0 64k")
    assert await first_byte(system.storage.killed()) == 0
    await system.execute("stop")
    assert await first_byte(system.storage.killed()) == 7


async def test_stop_succeeds_where_a_flush_fails(system):
    await system.create_disk("a", size=MIB)
    await system.add_disk("a")
    await system.qemu_io("a", "write 0 64k")
    system.storage.faults.add(Fault("storage.flush", errno.EIO))
    assert await system.execute("stop") == {}
    assert await status(system) == "paused"


async def first_byte(storage):
    """Return what another program finds at the beginning of the disk."""
    other = Emulator(storage)
    await other.add_disk("a", read_only=True)
    data = await other.layer.find_node("a").pread(0, 1)
    await other.layer.shutdown()
    return bytes(data)[0]


FILTERS = {
    "throttle": {"driver": "throttle", "throttle_group": "g"},
    "copy-before-write": {"driver": "copy-before-write", "target": "t"},
}


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS)
async def test_filter_that_is_closed_flushes_the_node_below(system, options):
    await system.execute("object-add", qom_type="throttle-group", id="g")
    for name in ("a", "t"):
        await system.create_disk(name, size=MIB)
        await system.add_disk(name)
    await system.qemu_io("a", "write -P 7 0 64k")
    await system.execute("blockdev-add", node_name="f", file="a", **options)
    assert await first_byte(system.storage.killed()) == 0
    await system.execute("blockdev-del", node_name="f")
    assert await first_byte(system.storage.killed()) == 7


async def test_filter_of_a_backup_is_taken_out_without_a_flush(system):
    for name in ("a", "t"):
        await system.create_disk(name, size=MIB)
        await system.add_disk(name)
    await system.qemu_io("a", "write -P 7 0 64k")
    await system.execute("blockdev-backup", job_id="j", device="a", target="t", sync="full")
    await system.jobs_over()
    assert await first_byte(system.storage.killed()) == 0


async def test_cont_forgets_the_error_that_a_job_was_paused_for(system):
    for name in ("a", "t"):
        await system.create_disk(name, size=MIB)
    await system.add_disk("t")
    await system.qemu_io("t", "write 0 64k")
    rule = {"event": "read_aio", "errno": errno.EIO, "immediately": True}
    below = {"driver": "file", "filename": "/a.qcow2"}
    faulty = {"driver": "blkdebug", "image": below, "inject-error": [rule]}
    await system.execute("blockdev-add", driver="raw", node_name="a", file=faulty)
    words = {"device": "a", "target": "t", "sync": "full", "on_source_error": "stop"}
    await system.execute("block_resize", node_name="t", size=system.layer.find_node("a").length)
    await system.execute("blockdev-backup", job_id="j", **words)
    await until(lambda: bool(system.named("BLOCK_JOB_ERROR")))
    (job,) = await system.execute("query-block-jobs")
    assert job["io-status"] == "failed"
    assert job["paused"]
    await system.execute("cont")
    (job,) = await system.execute("query-block-jobs")
    assert job["io-status"] == "ok"
    assert job["paused"]
