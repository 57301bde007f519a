"""The pace of a job leaves jumps over zeroes out and falls when the job stands still."""

from __future__ import annotations

import pytest

from blkxact.cli.pace import WINDOW_SECONDS, Pace

MIB = 1 << 20


def paced(steps, *, seconds=0.2, offset=0):
    """Return a pace after ``steps`` bytes each, and the time."""
    pace = Pace()
    now = 100.0
    pace.note(offset, now)
    for step in steps:
        now += seconds
        offset += step
        pace.note(offset, now)
    return pace, now


def test_pace_is_not_known_before_the_second_look():
    pace, now = paced([])
    assert pace.rate(now) is None
    pace, now = paced([0, 0])
    assert pace.rate(now) is None


def test_pace_does_not_count_what_was_done_before_the_first_look():
    pace, now = paced([MIB] * 5, offset=1 << 40)
    assert pace.rate(now) == pytest.approx(5 * MIB)


def test_pace_leaves_a_jump_over_zeroes_out():
    pace, now = paced([MIB] * 10 + [500_000 * MIB] + [MIB] * 10)
    assert pace.rate(now) == pytest.approx(5 * MIB)


def test_pace_of_a_job_that_moves_in_bursts_is_its_mean():
    pace, now = paced(([0] * 9 + [MIB]) * 3)
    assert pace.rate(now) == pytest.approx(MIB / 2)


def test_pace_of_a_job_with_uneven_steps_is_their_mean():
    pace, now = paced([3 * MIB, 3 * MIB, 9 * MIB] * 30)
    assert pace.rate(now) == pytest.approx(25 * MIB, rel=0.15)


def test_pace_of_a_short_job_is_known():
    pace, now = paced([MIB])
    assert pace.rate(now) == pytest.approx(5 * MIB)


def test_pace_of_a_job_that_stands_still_falls_to_zero():
    pace, now = paced([MIB] * 10)
    assert pace.rate(now + 1) == pytest.approx(5 * MIB)
    assert pace.rate(now + 2 * WINDOW_SECONDS) == pytest.approx(0, abs=MIB / 2)


def test_pace_follows_the_last_seconds():
    pace, now = paced([100 * MIB] * 100 + [MIB] * 60)
    assert pace.rate(now) == pytest.approx(5 * MIB)
