"""Latencies of the last seconds (``timed_stats`` of ``query-blockstats``)."""

from __future__ import annotations

import pytest

from blkxact.block.accounting import Accounting, Operation
from blkxact.block.timed_stats import NS_PER_SECOND, TimedAverage

S = NS_PER_SECOND


def described(average: TimedAverage, now: int) -> tuple[int, ...]:
    return tuple(average.describe("rd", now).values())


def test_without_requests_all_is_zero() -> None:
    average = TimedAverage(3, 5 * S)
    assert described(average, 6 * S) == (0, 0, 0)
    assert average.queue_depth(6 * S) == 0


def test_requests_are_reported_for_about_the_interval() -> None:
    """With an interval of 3 s the windows are of 4 s: they end at 2, 4, 6, 8, ... s."""
    average = TimedAverage(3, 0)
    average.account(100, S)
    average.account(300, S)
    assert described(average, S) == (100, 300, 200)
    average.account(1100, 3 * S)
    assert described(average, 3 * S) == (100, 1100, 500)  # of the window from 0 to 4
    assert average.queue_depth(3 * S) == pytest.approx(1500 / (3 * S))
    assert described(average, 5 * S) == (1100, 1100, 1100)  # of that from 2 to 6
    assert described(average, 7 * S) == (0, 0, 0)


def test_windows_keep_their_beat_after_a_long_pause() -> None:
    average = TimedAverage(3, 0)
    average.account(1, S)
    average.account(7, 21 * S)  # they end at 22 and 24
    assert described(average, 21 * S + S // 2) == (7, 7, 7)
    assert described(average, 23 * S) == (7, 7, 7)
    assert described(average, 24 * S) == (0, 0, 0)


def test_failed_requests_count_if_they_are_accounted() -> None:
    for account in (True, False):
        accounting = Accounting()
        accounting.add_interval(60, 0)
        accounting.account_failed = account
        accounting.failed(Operation.WRITE, 5, 25)
        (timed,) = accounting.describe(S)["timed_stats"]
        assert timed["interval_length"] == 60
        assert timed["max_wr_latency_ns"] == (20 if account else 0)


def test_discards_are_not_reported() -> None:
    accounting = Accounting()
    accounting.add_interval(60, 0)
    accounting.done(Operation.UNMAP, 512, 0, 10)
    (timed,) = accounting.describe(S)["timed_stats"]
    assert not any("unmap" in name for name in timed)
