"""Throttle groups: limits that several disks share, and who of them waits.

A request of a member asks ``admit`` before it goes on. The group has two lanes, for reads and for
writes. In each, requests go on at once as long as the buckets are not too full; else they are held,
and a timer lets the next one go.

Invariants:

* Members take turns: of those that hold requests each gets one through, then the next. Requests of
  one member keep their order.
* What is let through is counted at once, so no two requests use the same room.
* A timer lets one request go whatever the buckets say then, so neither lane starves the other.
* A disabled member (its node or device is drained) holds nothing; what it lets through counts.
* All that happens, happens in ``admit`` and in timers of the clock that was passed in.

QEMU's counterpart: ``block/throttle-groups.c``, ``util/throttle.c``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from blkxact.errors import QmpError
from blkxact.runtime.clock import Clock, Timer

from .limits import Limit, ThrottleLimits
from .rate_limit import SLICE_SECONDS, LeakyBucket


class _Bucket:
    """What one limit has let through. Where bursts may be long their own rate is watched too."""

    __slots__ = ("burst", "capacity", "main")

    def __init__(self, limit: Limit, now: float) -> None:
        self.main = LeakyBucket(limit.average, now)
        self.burst = LeakyBucket(limit.maximum, now) if limit.length > 1 else None
        self.capacity = limit.maximum * limit.length or limit.average * SLICE_SECONDS

    def wait(self, now: float) -> float:
        """Return the seconds until a request may go; 0: now."""
        self.main.leak(now)
        seconds = self.main.seconds_above(self.capacity)
        if self.burst is not None:
            self.burst.leak(now)
            seconds = seconds or self.burst.seconds_above(self.burst.rate * SLICE_SECONDS)
        return seconds

    def add(self, units: float) -> None:
        """Count what goes through now."""
        self.main.level += units
        if self.burst is not None:
            self.burst.level += units


class _Held(NamedTuple):
    """A request that waits for its turn."""

    length: int
    turn: asyncio.Future[None]


class _Lane:
    """The reads or the writes of a group."""

    def __init__(self, group: ThrottleGroup) -> None:
        self._group = group
        self._bytes: list[_Bucket] = []
        self._requests: list[_Bucket] = []
        self._waiting: deque[ThrottleMember] = deque()
        """Members that hold requests, each once; the first is next."""
        self._timer: Timer | None = None

    def use(self, per_byte: Iterable[_Bucket], per_request: Iterable[_Bucket]) -> None:
        """Go by these buckets from now on."""
        self._bytes, self._requests = list(per_byte), list(per_request)
        self.rearm()

    def must_wait(self) -> bool:
        """Return whether a new request has to be held."""
        return bool(self._waiting) or self._seconds() > 0

    def count(self, length: int) -> None:
        """Count a request that goes through now."""
        size = self._group.limits.iops_size
        units = length / size if size and length > size else 1.0
        for bucket in self._bytes:
            bucket.add(length)
        for bucket in self._requests:
            bucket.add(units)

    def join(self, member: ThrottleMember) -> None:
        """Give a turn to a member that holds its first request."""
        self._waiting.append(member)
        if self._timer is None:
            self.rearm()

    def leave(self, member: ThrottleMember) -> None:
        """Forget a member that holds nothing any more."""
        self._waiting.remove(member)
        self.rearm()

    def rearm(self) -> None:
        """Let go what may go now, and set the timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            seconds = self._seconds()
            if seconds:
                self._timer = self._group.clock.call_later(seconds, self._fired)
                return
            self._next()

    def _fired(self) -> None:
        self._timer = None
        if self._waiting:
            self._next()
        self.rearm()

    def _next(self) -> None:
        """Let the next member's first request go; it stands at the end of the line then."""
        member = self._waiting.popleft()
        held = member.held(self)
        self.release(held.popleft())
        if held:
            self._waiting.append(member)

    def release(self, held: _Held) -> None:
        """Let one request go."""
        self.count(held.length)
        if not held.turn.done():
            held.turn.set_result(None)

    def _seconds(self) -> float:
        now = self._group.clock.monotonic()
        return max((bucket.wait(now) for bucket in (*self._bytes, *self._requests)), default=0.0)


class ThrottleGroup:
    """One group. ``limits`` are changed by ``configure`` only, which empties the buckets."""

    def __init__(self, name: str, clock: Clock, limits: ThrottleLimits) -> None:
        self.name = name
        self.clock = clock
        self.members: list[ThrottleMember] = []
        self.is_object = False
        """Made by ``object-add``, so it stays when the last member has left."""
        self.on_unused: Callable[[ThrottleGroup], None] = lambda _: None
        """Called when the last member has left."""
        self.reads, self.writes = _Lane(self), _Lane(self)
        self.configure(limits)

    def configure(self, limits: ThrottleLimits) -> None:
        """Go by other limits, checked ones, from now on."""
        self.limits = limits
        now = self.clock.monotonic()
        buckets = {
            kind: _Bucket(limit, now) for kind, limit in limits.limits.items() if limit.average
        }
        for lane, single in ((self.reads, "read"), (self.writes, "write")):
            per_byte, per_request = (
                [buckets[kind] for kind in (f"{unit}-total", f"{unit}-{single}") if kind in buckets]
                for unit in ("bps", "iops")
            )
            lane.use(per_byte, per_request)


class ThrottleMember:
    """One node or device in a group."""

    def __init__(self, group: ThrottleGroup) -> None:
        self.group = group
        self._disabled = 0
        self._held: dict[_Lane, deque[_Held]] = {group.reads: deque(), group.writes: deque()}
        group.members.append(self)

    def held(self, lane: _Lane) -> deque[_Held]:
        """Return the requests that wait in a lane, the first first."""
        return self._held[lane]

    async def admit(self, length: int, *, is_write: bool) -> None:
        """Return when a request of ``length`` bytes may go on."""
        lane = self.group.writes if is_write else self.group.reads
        if self._disabled or not lane.must_wait():
            lane.count(length)
            return
        queue = self._held[lane]
        held = _Held(length, asyncio.get_running_loop().create_future())
        queue.append(held)
        if len(queue) == 1:
            lane.join(self)
        try:
            await held.turn
        except asyncio.CancelledError:
            if held in queue:
                queue.remove(held)
                if not queue:
                    lane.leave(self)
            raise

    def disable(self) -> None:
        """Hold nothing until ``enable`` was called as often; what is held goes on."""
        self._disabled += 1
        for lane, queue in self._held.items():
            if queue:
                while queue:
                    lane.release(queue.popleft())
                lane.leave(self)

    def enable(self) -> None:
        """Take back one ``disable``."""
        assert self._disabled > 0
        self._disabled -= 1

    def leave(self) -> None:
        """Leave the group; all requests are over."""
        assert not any(self._held.values()), self.group.name
        self.group.members.remove(self)
        if not self.group.members:
            self.group.on_unused(self.group)


class ThrottleGroups:
    """The groups of one emulator, by name."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._groups: dict[str, ThrottleGroup] = {}

    def find(self, name: str) -> ThrottleGroup | None:
        """Return the group of that name."""
        return self._groups.get(name)

    def create(self, name: str, limits: ThrottleLimits) -> ThrottleGroup:
        """Make a group that stays until ``delete`` (object-add). Raises ``QmpError``."""
        if name in self._groups:
            raise QmpError("A group with this name already exists")
        limits.check()
        group = self._add(name, limits)
        group.is_object = True
        return group

    def delete(self, name: str) -> None:
        """End a group made by ``create``. Raises ``QmpError`` while it has members."""
        if self._groups[name].members:
            raise QmpError(f"Cannot delete throttle group '{name}' with active references")
        del self._groups[name]

    def join(self, name: str) -> ThrottleMember:
        """Return a new member of a group, which is made without limits if there is none."""
        return ThrottleMember(self._groups.get(name) or self._add(name, ThrottleLimits()))

    def _add(self, name: str, limits: ThrottleLimits) -> ThrottleGroup:
        group = self._groups[name] = ThrottleGroup(name, self.clock, limits)
        group.on_unused = self._unused
        return group

    def _unused(self, group: ThrottleGroup) -> None:
        if not group.is_object:
            del self._groups[group.name]

    def let_go(self) -> None:
        """Hold nothing any more: the emulator ends, and nobody waits for that."""
        for group in self._groups.values():
            group.configure(ThrottleLimits())
