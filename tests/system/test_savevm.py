"""savevm, loadvm, delvm, info snapshots and the jobs snapshot-*: disks at one point in time."""

import errno
from typing import Any

import pytest

from blkxact.testing.faults import Fault
from tests.system.conftest import Emulator

TITLE = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\r\n"


@pytest.fixture
async def disks(emulator: Emulator) -> Emulator:
    for name in ("a", "b"):
        await emulator.disk(name)
    return emulator


async def guest(emulator: Emulator, node: str, line: str) -> str:
    return await emulator.hmp(f'qemu-io -d guest-{node} "{line}"')


def names(emulator: Emulator, node: str) -> list[str]:
    return [one.name for one in emulator.layer.graph.nodes[node].driver.internal_snapshots.entries]


async def test_loadvm_sets_all_disks_back(disks):
    await guest(disks, "a", "write -P 1 0 64k")
    assert await disks.hmp("savevm one") == ""
    await guest(disks, "a", "write -P 2 0 64k")
    await guest(disks, "b", "write -P 2 0 64k")
    assert await disks.hmp("loadvm one") == ""
    assert "failed" not in await guest(disks, "a", "read -P 1 0 64k")
    assert "failed" not in await guest(disks, "b", "read -P 0 0 64k")
    assert len(disks.named("STOP")) == len(disks.named("RESUME")) == 2


async def test_savevm_replaces_a_snapshot_of_that_name_and_invents_one(disks):
    await disks.hmp("savevm one")
    await disks.hmp("savevm one")
    await disks.hmp("savevm")
    for node in ("a", "b"):
        first, second = names(disks, node)
        assert first == "one"
        assert second.startswith("vm-")
    assert await disks.hmp("delvm one") == await disks.hmp("delvm nope") == ""
    assert len(names(disks, "a")) == 1


async def test_savevm_that_fails_on_one_disk_leaves_none(disks):
    disks.storage.faults.add(Fault("storage.flush", errno.EIO, {"path": "/b.qcow2"}))
    reply = await disks.hmp("savevm one")
    assert reply == "Error: Could not create snapshot 'one' on 'b'\r\n"
    assert names(disks, "a") == names(disks, "b") == []
    assert disks.layer.machine.running


async def test_loadvm_that_fails_leaves_the_guest_stopped_as_in_qemu(disks):
    reply = await disks.hmp("loadvm nope")
    assert reply == "Error: Snapshot 'nope' does not exist in one or more devices\r\n"
    assert not disks.layer.machine.running


async def test_loadvm_refuses_a_disk_with_bitmaps(disks):
    await disks.hmp("savevm one")
    await disks.execute("block-dirty-bitmap-add", node="a", name="m")
    reply = await disks.hmp("loadvm one")
    assert reply == (
        "Error: Could not load snapshot 'one' on 'a': Device has active dirty bitmaps\r\n"
    )


async def test_info_snapshots_tells_those_of_all_disks_from_those_of_some(disks):
    assert await disks.hmp("info snapshots") == "There is no snapshot available.\r\n"
    await disks.hmp("savevm one")
    await disks.execute("blockdev-snapshot-internal-sync", device="a", name="two")
    shown = await disks.hmp("info snapshots")
    everywhere, partial = shown.split("\r\nList of partial (non-loadable) snapshots on '':\r\n")
    assert everywhere.startswith(f"List of snapshots present on all disks:\r\n{TITLE}--        one")
    assert partial.startswith(f"{TITLE}2         two ")


@pytest.mark.parametrize("line", ["savevm x", "loadvm x"])
async def test_machine_without_disks_has_no_snapshots(emulator, line):
    error = "no block device can store vmstate for snapshot\r\n"
    assert await emulator.hmp(line) == f"Error: {error}"
    assert await emulator.hmp("info snapshots") == error
    assert await emulator.hmp("delvm x") == ""


async def test_disk_that_can_have_none_prevents_a_snapshot_if_it_is_writable(disks):
    await disks.disk("raw", "raw", read_only=True)
    assert await disks.hmp("savevm one") == ""
    await disks.disk("other", "raw")
    for line in ("savevm one", "delvm one", "loadvm one"):
        reply = await disks.hmp(line)
        assert reply.endswith("is writable but does not support snapshots\r\n")
    assert "all disks:\r\nNone\r\n" in await disks.hmp("info snapshots")


async def job(emulator: Emulator, verb: str, **arguments: object) -> dict[str, Any]:
    """Run a job to its end and dismiss it; return what ``query-jobs`` said of it."""
    await emulator.execute(f"snapshot-{verb}", job_id="j", tag="one", **arguments)
    await emulator.jobs_over()
    [told] = await emulator.execute("query-jobs")
    await emulator.execute("job-dismiss", id="j")
    return told


async def test_job_saves_loads_and_deletes_a_snapshot_of_the_named_disks(disks):
    await disks.disk("other", "raw")  # cannot have any, and is not asked to
    await guest(disks, "a", "write -P 1 0 64k")
    told = await job(disks, "save", vmstate="a", devices=["a", "b"])
    assert told == {
        "id": "j",
        "type": "snapshot-save",
        "status": "concluded",
        "current-progress": 1,
        "total-progress": 1,
    }
    await guest(disks, "a", "write -P 2 0 64k")
    assert "error" not in await job(disks, "load", vmstate="a", devices=["a", "b"])
    assert "failed" not in await guest(disks, "a", "read -P 1 0 64k")
    assert "error" not in await job(disks, "delete", devices=["a"])
    assert (names(disks, "a"), names(disks, "b")) == ([], ["one"])
    assert len(disks.named("STOP")) == len(disks.named("RESUME")) == 2
    assert disks.layer.machine.running


async def test_state_of_the_machine_says_what_it_is_stopped_for(disks):
    await job(disks, "load", vmstate="a", devices=["a"])
    assert (await disks.execute("query-status"))["status"] == "restore-vm"


@pytest.mark.parametrize(
    ("verb", "arguments", "error"),
    [
        ("save", {"vmstate": "a", "devices": []}, "At least one device is required for snapshot"),
        ("save", {"vmstate": "a", "devices": ["a", "x"]}, "No block device node 'x'"),
        (
            "save",
            {"vmstate": "a", "devices": ["a", "other"]},
            "Device 'other' is writable but does not support snapshots",
        ),
        ("save", {"vmstate": "b", "devices": ["a"]}, "vmstate block device 'b' does not exist"),
        (
            "load",
            {"vmstate": "a", "devices": ["a"]},
            "Snapshot 'one' does not exist in one or more devices",
        ),
        ("delete", {"devices": []}, "At least one device is required for snapshot"),
    ],
)
async def test_job_that_fails_says_why(disks, verb, arguments, error):
    await disks.disk("other", "raw")
    told = await job(disks, verb, **arguments)
    assert (told["status"], told["error"]) == ("concluded", error)
    assert (told["current-progress"], told["total-progress"]) == (1, 1)


async def test_job_replaces_no_snapshot_that_all_disks_have(disks):
    await job(disks, "save", vmstate="a", devices=["a", "b"])
    told = await job(disks, "save", vmstate="a", devices=["a", "b"])
    assert told["error"] == "Snapshot 'one' already exists in one or more devices"


async def test_snapshot_of_a_disk_below_a_filter_is_that_of_the_disk(disks):
    await disks.execute("blockdev-add", driver="compress", node_name="above", file="b")
    assert "error" not in await job(disks, "save", vmstate="above", devices=["above"])
    assert names(disks, "b") == ["one"]


async def test_a_backing_file_that_is_exported_belongs_to_the_snapshot(emulator, image_dir):
    await emulator.create_disk("low")
    await emulator.add_disk("low")
    await emulator.create_disk("up")
    await emulator.add_disk("up", backing="low")
    await emulator.hmp("savevm one")
    assert (names(emulator, "up"), names(emulator, "low")) == (["one"], [])
    await emulator.hmp(f"nbd_server_start unix:{image_dir}/nbd")
    await emulator.hmp("nbd_server_add -w low")
    await emulator.hmp("savevm two")
    assert (names(emulator, "up"), names(emulator, "low")) == (["one", "two"], ["two"])
    await emulator.layer.shutdown()
