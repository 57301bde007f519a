"""The kit with pytest-xdist: tests in several processes at once."""

from __future__ import annotations

import pytest

pytest.importorskip("xdist")
pytest_plugins = "pytester"

SAMPLE = """
import pytest

BACKUP = {"device": "vda", "job_id": "j0", "sync": "full", "format": "qcow2"}


@pytest.mark.parametrize("number", range(6))
@pytest.mark.blkxact(disks={"vda": "1M"})
def test_backup(blkxact, tmp_path, number):
    blkxact.guest.write("vda", 0, bytes([number + 1]) * 65536)
    blkxact.execute("drive-backup", target=str(tmp_path / "t.qcow2"), **BACKUP)
    assert "error" not in blkxact.events.wait("BLOCK_JOB_COMPLETED")
    assert blkxact.contents(tmp_path / "t.qcow2") == blkxact.contents("vda")


def test_that_leaves_a_node(blkxact):
    blkxact.execute("blockdev-add", driver="null-co", node_name="n0")


@pytest.mark.every_fault(points="request.write")
@pytest.mark.blkxact(disks={"vda": "1M"})
def test_that_does_not_look(blkxact, tmp_path):
    blkxact.guest.write("vda", 0, b"x" * 65536)
    blkxact.execute("drive-backup", target=str(tmp_path / "t.qcow2"), **BACKUP)
    assert "error" not in blkxact.events.wait("BLOCK_JOB_COMPLETED")
"""


def test_tests_run_in_processes_side_by_side_and_say_the_same(pytester):
    pytester.makepyfile(SAMPLE)
    options = ("-p", "no:asyncio", "-p", "no:cacheprovider", "--strict-markers", "-rA")
    alone = pytester.runpytest_subprocess(*options)
    spread = pytester.runpytest_subprocess(*options, "-n", "2")
    for result in (alone, spread):
        outcomes = result.parseoutcomes()
        assert (outcomes["passed"], outcomes["errors"]) == (8, 1)
        assert outcomes["failed"] >= 1
        text = result.stdout.str()
        assert "node 'n0' is left behind" in text
        assert "test_that_does_not_look[request.write j0.target #1]" in text
    assert spread.parseoutcomes() == alone.parseoutcomes()
