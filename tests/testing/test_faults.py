"""Faults at recorded points: a passing has the same address in the next run, and can fail there."""

from __future__ import annotations

import errno

import pytest
from tests.emulator import KIB, Emulator
from tests.one_backup import backup, backup_emulator

from blkxact.errors import QmpError
from blkxact.runtime.points import POINTS, Points
from blkxact.testing.faults import Fault, Faults, Record, fault_at


def passings(record: Record) -> list[str]:
    return [str(passing) for passing in record.passings]


def test_record_that_is_stopped_hears_no_more():
    points = Points()
    record = Record(points)
    points.hit("nbd.connected", client=1)
    record.stop()
    points.hit("nbd.connected", client=1)
    assert passings(record) == ["nbd.connected #1"]
    assert not points.listening


async def test_fault_strikes_the_passing_it_names_and_no_other():
    points = Points()
    record = Record(points, "request.*")
    for node in ("a", "b", "a"):
        await points.reach("request.read", node=node, offset=0, length=512)
    record.stop()
    assert passings(record) == ["request.read a #1", "request.read b #1", "request.read a #2"]
    Faults(points).add(fault_at(record.passings[2], errno.ENOSPC))
    for node in ("b", "a", "b"):
        await points.reach("request.read", node=node, offset=512, length=1)
    with pytest.raises(OSError, match="No space left"):
        await points.reach("request.read", node="a", offset=0, length=512)
    await points.reach("request.read", node="a", offset=0, length=512)


async def test_faults_that_are_cleared_strike_no_more_and_can_be_ordered_again():
    points = Points()
    faults = Faults(points)
    faults.add(Fault("command.execute", "not now", {"command": "stop"}, times=None))
    points.hit("command.execute", command="cont")
    with pytest.raises(QmpError, match="not now"):
        points.hit("command.execute", command="stop")
    (fault,) = faults.clear()
    assert not points.listening
    points.hit("command.execute", command="stop")
    faults.add(fault)
    with pytest.raises(QmpError, match="not now"):
        points.hit("command.execute", command="stop")


def test_fault_at_no_point_is_refused():
    with pytest.raises(KeyError):
        Faults(Points()).add(Fault("storage.nonsense", errno.EIO))


# A whole emulator


async def recorded_backup() -> Record:
    emulator = await backup_emulator()
    record = Record(emulator.layer.points)
    await backup(emulator)
    record.stop()
    await emulator.layer.shutdown()
    return record


async def test_every_request_of_a_backup_can_fail_and_no_dirty_bit_is_lost():
    record = await recorded_backup()
    assert passings(await recorded_backup()) == passings(record)
    requests = [each for each in record.passings if each.point.startswith("request.")]
    assert {"request.write target", "request.block-status a", "request.flush target"} <= {
        passing.address for passing in requests
    }
    failed = 0
    for passing in requests:
        emulator = await backup_emulator()
        bitmap = emulator.layer.graph.nodes["a"].bitmaps["b"]
        emulator.storage.faults.add(fault_at(passing, errno.EIO))
        try:
            ended = await backup(emulator)
        except QmpError:
            ended = {"error": "refused"}
        assert "error" in ended or bitmap.count() == 0, passing
        assert "error" not in ended or bitmap.count() == 64 * KIB, passing
        assert bitmap.successor is None, passing
        failed += "error" in ended
        emulator.storage.faults.clear()
        await emulator.layer.shutdown()
    assert failed > 3


async def test_node_without_a_name_is_addressed_by_its_place():
    emulator = Emulator()
    guest = await emulator.disk("a")
    record = Record(emulator.layer.points, "request.write")
    await guest.pwrite(0, b"x" * 512)
    assert {passing.address for passing in record.passings} == {
        "request.write a",
        "request.write a.file",
    }
    await emulator.execute("drive-backup", device="a", job_id="j", sync="full", target="/t.qcow2")
    await emulator.jobs_over()
    assert {each.address.split()[1] for each in record.passings} == {
        *("a", "a.file", "j.target", "j.target.file")
    }
    await emulator.layer.shutdown()


def test_addresses_are_made_of_facts_that_the_points_have():
    for point in POINTS.values():
        assert point.address(dict.fromkeys(point.facts, "x")).startswith(point.name)
