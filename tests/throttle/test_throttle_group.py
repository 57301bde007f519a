"""Throttle groups in virtual time: how much goes through, and whose turn it is."""

import asyncio

import pytest

from blkxact.errors import QmpError
from blkxact.runtime.clock import SteppedClock
from blkxact.runtime.throttle.group import ThrottleGroups
from blkxact.runtime.throttle.limits import KINDS, ThrottleLimits
from blkxact.testing.waiting import until_idle

SECOND = 10**9
SIZE = 512


class Guests:
    """Members of one group; each sends requests and counts those that went through."""

    def __init__(self, count, **limits):
        self.clock = SteppedClock()
        self.groups = ThrottleGroups(self.clock)
        self.members = [self.groups.join("test") for _ in range(count)]
        self.done = [{"read": 0, "write": 0} for _ in range(count)]
        self.tasks = []
        self.configure(**limits)

    def configure(self, **limits):
        members = {name.replace("_", "-"): value for name, value in limits.items()}
        self.groups.find("test").configure(ThrottleLimits().changed(members))

    async def send(self, who, way, count, size=SIZE):
        async def one():
            await self.members[who].admit(size, is_write=way == "write")
            self.done[who][way] += 1

        self.tasks += [asyncio.create_task(one()) for _ in range(count)]
        await self.settle()

    async def step(self, seconds):
        self.clock.move(self.clock.now_ns + round(seconds * SECOND))
        await self.settle()

    async def settle(self):
        await until_idle()

    def total(self, way):
        return sum(done[way] for done in self.done)

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def through(guests, seconds, *, ways, each=2000):
    """Return what goes through in some seconds, once the first burst is over."""
    for who in range(len(guests.members)):
        for way in ways:
            await guests.send(who, way, each)
    before = [dict(done) for done in guests.done]
    await guests.step(seconds)
    return [
        {way: done[way] - was[way] for way in done}
        for done, was in zip(guests.done, before, strict=True)
    ]


def concerned(kind):
    which = kind.partition("-")[2]
    return ("read", "write") if which == "total" else (which,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_limit_shared_by_members_is_kept_and_divided_evenly(kind, count):
    unit = SIZE if kind.startswith("bps") else 1
    guests = Guests(count, **{kind: 10 * count * unit})
    ways = concerned(kind)
    moved = await through(guests, 5, ways=ways)
    for one in moved:
        assert sum(one[way] for way in ways) == pytest.approx(50, rel=0.1)
    await guests.end()


@pytest.mark.parametrize("kind", KINDS)
async def test_other_direction_of_a_single_limit_is_free(kind):
    which = kind.partition("-")[2]
    if which == "total":
        return
    other = "write" if which == "read" else "read"
    guests = Guests(1, **{kind: 1})
    await guests.send(0, which, 10)
    await guests.send(0, other, 1000)
    assert guests.total(other) == 1000
    assert guests.total(which) < 10
    await guests.end()


async def test_reads_and_writes_under_one_total_both_go_on():
    guests = Guests(1, iops_total=10)
    (moved,) = await through(guests, 10, ways=("read", "write"))
    assert moved["read"] + moved["write"] == pytest.approx(100, rel=0.1)
    assert min(moved.values()) > 30
    await guests.end()


async def test_long_burst_goes_at_its_rate_and_then_at_the_average():
    guests = Guests(1, iops_total=10, iops_total_max=70, iops_total_max_length=4)
    (burst,) = await through(guests, 4, ways=("read",))
    assert burst["read"] == pytest.approx(280, rel=0.1)
    await guests.step(1)  # as the bucket leaks meanwhile, the burst is a little longer
    before = guests.total("read")
    await guests.step(5)
    assert guests.total("read") - before == pytest.approx(50, rel=0.1)
    await guests.end()


async def test_short_burst_goes_at_once():
    guests = Guests(1, iops_total=10, iops_total_max=100)
    await guests.send(0, "read", 1000)
    assert guests.total("read") == 101  # the one that fills the bucket still goes
    await guests.end()


async def test_burst_is_there_again_when_the_bucket_is_empty():
    guests = Guests(1, iops_total=10, iops_total_max=100)
    await guests.send(0, "read", 101)
    await guests.step(11)
    await guests.send(0, "read", 200)
    assert guests.total("read") == 202
    await guests.end()


async def test_large_request_counts_as_several_by_iops_size():
    guests = Guests(1, iops_total=10, iops_size=1024)
    await guests.send(0, "read", 500, size=4096)
    before = guests.total("read")
    await guests.step(10)
    assert guests.total("read") - before == pytest.approx(25, rel=0.1)
    await guests.end()


async def test_members_take_turns_whoever_came_first():
    guests = Guests(2, iops_total=10)
    await guests.send(0, "read", 1000)
    await guests.send(1, "read", 1000)
    await guests.step(10)
    assert guests.done[0]["read"] == pytest.approx(guests.done[1]["read"], abs=2)
    await guests.end()


async def test_requests_of_one_member_keep_their_order():
    guests = Guests(1, iops_total=10)
    order = []

    async def one(number):
        await guests.members[0].admit(1, is_write=False)
        order.append(number)

    guests.tasks += [asyncio.create_task(one(number)) for number in range(20)]
    await guests.settle()
    await guests.step(10)
    assert order == list(range(20))


async def test_new_request_does_not_overtake_held_ones():
    guests = Guests(2, iops_total=10)
    await guests.send(0, "read", 3)
    held = 3 - guests.total("read")
    assert held
    await guests.send(1, "read", 1)
    assert guests.done[1]["read"] == 0
    await guests.end()


async def test_disabled_member_lets_all_go_and_others_pay_for_it():
    guests = Guests(2, iops_total=10)
    await guests.send(0, "read", 50)
    await guests.send(1, "read", 5)
    guests.members[0].disable()
    await guests.settle()
    assert guests.done[0]["read"] == 50
    assert guests.done[1]["read"] == 0
    await guests.step(4)
    assert guests.done[1]["read"] == 0  # 50 requests are 5 seconds
    await guests.step(2)
    assert guests.done[1]["read"] == 5
    guests.members[0].enable()
    await guests.send(0, "read", 50)
    assert guests.done[0]["read"] < 60
    await guests.end()


async def test_cancelled_request_is_not_counted_and_does_not_stop_the_next():
    guests = Guests(1, iops_total=10)
    await guests.send(0, "read", 5)
    went = guests.total("read")
    first_held = guests.tasks[went]
    first_held.cancel()
    await guests.settle()
    await guests.step(10)
    assert guests.total("read") == 4


async def test_other_limits_hold_at_once_for_what_is_held():
    guests = Guests(1, iops_total=1)
    await guests.send(0, "read", 1000)
    guests.configure(iops_total=1000)
    await guests.settle()
    await guests.step(1)
    assert guests.total("read") == 1000


async def test_no_limits_let_all_go():
    guests = Guests(1, iops_total=1)
    await guests.send(0, "write", 10)
    guests.groups.let_go()
    await guests.settle()
    assert guests.total("write") == 10


def test_group_made_for_a_device_goes_with_its_last_member():
    groups = ThrottleGroups(SteppedClock())
    first, second = groups.join("g"), groups.join("g")
    first.leave()
    assert groups.find("g") is second.group
    second.leave()
    assert groups.find("g") is None


def test_group_made_as_an_object_stays_and_cannot_be_deleted_while_used():
    groups = ThrottleGroups(SteppedClock())
    groups.create("g", ThrottleLimits())
    member = groups.join("g")
    with pytest.raises(QmpError, match="Cannot delete throttle group 'g' with active references"):
        groups.delete("g")
    member.leave()
    assert groups.find("g") is not None
    groups.delete("g")
    assert groups.find("g") is None


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"bps-total": 1, "bps-read": 1}, "total values and read/write values"),
        ({"iops-total": 1, "iops-total-max": 1, "iops-write-max": 1}, "total values"),
        ({"iops-size": 1}, "iops size requires an iops value"),
        ({"bps-read": 10**15 + 1}, "must be within"),
        ({"bps-read": -1}, "must be within"),
        ({"bps-read": 1, "bps-read-max": 2, "bps-read-max-length": 0}, "cannot be 0"),
        ({"bps-read": 1, "bps-read-max-length": 2}, "length set without burst rate"),
        ({"bps-read": 1, "bps-read-max": 10**15, "bps-read-max-length": 2}, "too high for this"),
        ({"bps-read-max": 1}, "require corresponding"),
        ({"bps-read": 2, "bps-read-max": 1}, "cannot be lower than"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(members, error):
    with pytest.raises(QmpError, match=error):
        ThrottleLimits().changed(members).check()


def test_limits_changed_keep_what_is_not_named():
    limits = ThrottleLimits().changed({"bps-read": 5}).changed({"iops-total": 7})
    members = limits.members()
    assert (members["bps-read"], members["iops-total"], members["bps-total"]) == (5, 7, 0)
    assert members["bps-total-max-length"] == 1
