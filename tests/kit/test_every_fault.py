"""``@pytest.mark.every_fault``: which faults a test does not stand."""

from __future__ import annotations

import pytest

pytest_plugins = "pytester"

SAMPLE = '''
import pytest

from blkxact.kit import QmpError


def backup(blkxact, target):
    """A tool; return whether it says that it has a backup."""
    try:
        blkxact.execute("drive-backup", device="vda", job_id="j0", sync="full", target=target,
                        format="qcow2")
    except QmpError:
        return False
    return "error" not in blkxact.events.wait("BLOCK_JOB_COMPLETED")


@pytest.fixture
def target(blkxact, tmp_path):
    blkxact.disk("vda", size="1M")
    blkxact.guest.write("vda", 0, b"x" * 65536)
    return tmp_path / "t.qcow2"


@pytest.mark.every_fault
def test_honest(blkxact, target):
    if backup(blkxact, str(target)):
        assert blkxact.contents(target) == blkxact.contents("vda")


@pytest.mark.every_fault(points="request.write")
def test_careless(blkxact, target):
    backup(blkxact, str(target))
    assert blkxact.contents(target) == blkxact.contents("vda")


@pytest.mark.every_fault
def test_failing(blkxact):
    assert False, "of itself"


def test_without():
    pass
'''


@pytest.mark.parametrize("ci", [False, True])
def test_each_fault_is_tried_and_those_that_the_test_does_not_stand_are_named(
    pytester, monkeypatch, ci
):
    if ci:
        monkeypatch.setenv("CI", "true")  # pytest shows whole differences then
    else:
        monkeypatch.delenv("CI", raising=False)
    pytester.makepyfile(SAMPLE)
    result = pytester.runpytest_subprocess(
        *("-p", "no:asyncio", "-p", "no:cacheprovider", "--strict-markers", "-rA")
    )
    text = result.stdout.str()
    failed = [line for line in text.splitlines() if line.startswith("FAILED")]
    assert [line for line in failed if "test_failing" in line]
    named = [line for line in failed if "test_careless[request.write " in line]
    assert "<1048576 byte" in text
    assert len(named) == len(failed) - 1 > 1
    assert not [line for line in failed if "test_honest" in line]
    result.stdout.re_match_lines(
        [
            r"\d\d faults, 0 of which the test does not stand",
            rf"\d faults, {len(named)} of which the test does not stand",
        ]
    )
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 3
    assert outcomes["failed"] == 1 + len(named)
