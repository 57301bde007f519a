"""What a power failure leaves behind, as a test of a tool sees it."""

from __future__ import annotations

import pytest

from blkxact.kit import KitError

MIB = 1 << 20
NEW = b"n" * 4096
SEEDS = range(30)


def disk_after(blkxact, seed):
    """Write without a flush, let the power fail, and return what the disk holds."""
    blkxact.guest.write("vda", 0, bytes(4096))
    blkxact.guest.flush("vda")
    blkxact.guest.write("vda", 0, NEW)
    changed = blkxact.lose_power(seed)
    assert changed == [blkxact.disk("vda").path] or not changed
    blkxact.restart()
    return bytes(blkxact.guest.read("vda", 0, 4096))


@pytest.mark.blkxact(disks={"vda": "1M"}, loses_power=True)
def test_write_that_was_not_flushed_is_there_or_gone_or_torn_as_the_seed_says(blkxact):
    found = [disk_after(blkxact, seed) for seed in SEEDS]
    assert {NEW, bytes(4096)} < set(found)
    for held in found:
        sectors = {held[at : at + 512] for at in range(0, 4096, 512)}
        assert sectors <= {NEW[:512], bytes(512)}
    assert found == [disk_after(blkxact, seed) for seed in SEEDS]


@pytest.mark.blkxact(disks={"vda": "1M"}, loses_power=True)
def test_kill_without_a_power_failure_loses_nothing_that_was_written(blkxact):
    blkxact.guest.write("vda", 0, NEW)
    blkxact.guest.flush("vda")
    blkxact.guest.write("vda", 0, 2 * NEW)
    blkxact.kill()
    blkxact.restart()
    assert blkxact.guest.read("vda", 0, 8192)[:4096] == NEW


def back_up_until_killed(blkxact, target):
    arguments = {"device": "vda", "job_id": "j0", "sync": "full", "format": "qcow2"}
    blkxact.execute("drive-backup", target=target, **arguments)
    for _ in range(10_000):
        blkxact.execute("query-jobs")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.blkxact(disks={"vda": "2M"}, loses_power=True)
def test_power_fails_in_the_middle_of_a_backup(blkxact, tmp_path, seed):
    blkxact.guest.write("vda", 0, b"x" * MIB)
    blkxact.guest.flush("vda")
    blkxact.faults.kill_at("target.write", nth=1)
    with pytest.raises(KitError):
        back_up_until_killed(blkxact, str(tmp_path / "t.qcow2"))
    blkxact.lose_power(seed)
    blkxact.restart()
    assert blkxact.contents("vda")[:MIB] == b"x" * MIB


@pytest.mark.blkxact(disks={"vda": "1M"})
def test_power_failure_takes_the_marker(blkxact):
    with pytest.raises(KitError, match=r"takes @pytest.mark.blkxact\(loses_power=True\)"):
        blkxact.lose_power()
    assert blkxact.execute("query-jobs") == []


@pytest.mark.blkxact(disks={"vda": "1M"}, loses_power=True)
def test_emulator_that_was_stopped_has_nothing_to_lose(blkxact):
    blkxact.stop()
    with pytest.raises(KitError, match="does not run"):
        blkxact.lose_power()
