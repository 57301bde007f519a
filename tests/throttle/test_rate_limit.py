"""The speed of jobs, in virtual time."""

import pytest

from blkxact.runtime.clock import SteppedClock
from blkxact.runtime.throttle.rate_limit import RateLimit


def spend(clock, limit, piece, seconds):
    """Send pieces as the limit allows; return the bytes that went through in some seconds."""
    sent, end = 0, clock.now_ns + round(seconds * 1e9)
    while clock.now_ns < end:
        delay = limit.delay()
        if delay:
            clock.move(clock.now_ns + max(1, round(delay * 1e9)))
        else:
            limit.account(piece)
            sent += piece
    return sent


@pytest.mark.parametrize("piece", [512, 65536, 1 << 20])
def test_speed_over_some_time_is_kept_whatever_the_size_of_pieces(piece):
    clock = SteppedClock()
    speed = 1 << 20
    assert spend(clock, RateLimit(clock, speed), piece, 100) == pytest.approx(speed * 100, rel=0.02)


def test_idle_time_is_not_saved_up():
    clock = SteppedClock()
    limit = RateLimit(clock, 1000)
    clock.move(3600 * 10**9)
    assert spend(clock, limit, 100, 10) == pytest.approx(10_000, rel=0.05)


def test_what_was_spent_is_paid_at_the_new_speed():
    clock = SteppedClock()
    limit = RateLimit(clock, 1)
    limit.account(10_000)
    for speed, delay in ((1, 10_000), (0, 0), (1000, 10), (1_000_000, 0), (2000, 5)):
        limit.set_speed(speed)
        assert limit.delay() == delay
    clock.move(4 * 10**9)
    assert limit.delay() == 1


def test_no_speed_is_no_limit():
    limit = RateLimit(SteppedClock())
    limit.account(1 << 40)
    assert limit.delay() == 0
