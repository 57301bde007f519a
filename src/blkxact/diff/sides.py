"""Both programs at once: a line to each, and how what they say and what they are then differ."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .differences import NOTHING, compare
from .emulator import POLL_S, Emulator, Said, SilentError
from .known import ANSWERS, Difference
from .mask import Mask
from .observe import (
    DIGEST,
    GRAPH,
    NODES,
    QUERIES,
    STATS,
    digests,
    edges_of,
    observe,
    said_in,
    with_drivers,
)
from .script import name_of

T = TypeVar("T")

SILENCE = "silence"
LATE = frozenset({"DEVICE_DELETED", "BLOCK_EXPORT_DELETED"})
"""Events that come soon after what they report; all of them are compared at the end."""
RELEASE_S = 1
"""How long the disk of a device may be in use after the device is deleted."""
PASSING = frozenset({"paused", "running", "standby"})


@dataclass
class Side:
    """One of the two programs in a run."""

    emulator: Emulator
    mask: Mask
    late: list[dict[str, Any]] = field(default_factory=list)
    """Events of ``LATE`` so far."""
    seen: dict[str, bytes] = field(default_factory=dict)
    """The replies to the queries after the last step."""

    def note_late(self, events: Sequence[dict[str, Any]]) -> None:
        """Keep events of ``LATE`` for the end."""
        self.late += [event for event in events if event["event"] in LATE]


async def _both(step: int, where: str, calls: Sequence[Awaitable[T]]) -> list[T] | Difference:
    """Wait for both sides; a difference if one or both fall silent."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    answers: list[T] = []
    for each in done:
        if isinstance(each, SilentError):
            texts = [str(one) if isinstance(one, SilentError) else ANSWERS for one in done]
            return Difference(step, f"{where} {SILENCE}", *texts)
        if isinstance(each, BaseException):
            raise each
        answers.append(each)
    return answers


async def states(step: int, where: str, sides: Sequence[Side], *, all_of: bool) -> list[Difference]:
    """Return how the states of the two differ, where they have changed or in ``all_of`` them."""
    raw = await _both(step, where, [observe(side.emulator) for side in sides])
    if isinstance(raw, Difference):
        return [raw]
    found: list[Difference] = []
    for query in QUERIES:
        if not all_of and all(
            side.seen.get(query) == replies[query] for side, replies in zip(sides, raw, strict=True)
        ):
            continue
        found += compare(
            step,
            query,
            *(_readable(side, query, replies) for side, replies in zip(sides, raw, strict=True)),
        )
        if query == NODES and not found:
            found += await _digests(step, sides, [replies[query] for replies in raw])
    for side, replies in zip(sides, raw, strict=True):
        side.seen = replies
    return found


def _replies(side: Side, name: str, said: Said) -> Any:
    """Return the replies to a command as they are compared."""
    replies = side.mask(said.replies)
    if name != STATS:
        return replies
    nodes = side.mask(said_in(side.seen[NODES]))
    return [{key: with_drivers(value, nodes) for key, value in reply.items()} for reply in replies]


def _readable(side: Side, query: str, replies: Mapping[str, bytes]) -> Any:
    """Return the reply to a query as it is compared."""
    value = side.mask(said_in(replies[query]))
    if query == GRAPH:
        return edges_of(value)
    return with_drivers(value, side.mask(said_in(replies[NODES]))) if query == STATS else value


async def _digests(step: int, sides: Sequence[Side], nodes: Sequence[bytes]) -> list[Difference]:
    both = await _both(
        step, DIGEST, [digests(side.emulator, one) for side, one in zip(sides, nodes, strict=True)]
    )
    if isinstance(both, Difference):
        return [both]
    return compare(step, DIGEST, *(side.mask(one) for side, one in zip(sides, both, strict=True)))


async def take_step(step: int, line: str, sides: Sequence[Side]) -> list[Difference]:
    """Send a line to both; return how what they say and what they are then differ."""
    name = name_of(line)
    said = await _both(step, name, [side.emulator.say(line) for side in sides])
    if isinstance(said, Difference):
        return [said]
    for side, one in zip(sides, said, strict=True):
        side.note_late([*side.emulator.between(), *one.events])
    replies = [_replies(side, name, one) for side, one in zip(sides, said, strict=True)]
    found = compare(step, name, *replies)
    found += compare(
        step,
        f"{name} events",
        *(_by_source(side.mask(one.events)) for side, one in zip(sides, said, strict=True)),
    )
    if any(map(parts_ways, found)):
        return found
    now = await states(step, name, sides, all_of=False)
    if name == "device_del":
        now = await _settled(step, sides, now)
    return found + now


async def _settled(step: int, sides: Sequence[Side], now: list[Difference]) -> list[Difference]:
    """Look again for a while if states differ: QEMU lets go of a device's disk a moment later."""
    clock = asyncio.get_running_loop().time
    end_s = clock() + RELEASE_S
    while now and clock() < end_s:
        await asyncio.sleep(POLL_S)
        now = await states(step, "device_del", sides, all_of=True)
    return now


async def end(step: int, sides: Sequence[Side]) -> list[Difference]:
    """End both programs; return how their last events differ, and those that may come late."""
    found = await states(step, "(end)", sides, all_of=True)
    if any(map(parts_ways, found)):
        return found
    last = await _both(step, "quit", [side.emulator.quit() for side in sides])
    if isinstance(last, Difference):
        return [*found, last]
    found += compare(
        step,
        "quit events",
        *(_by_source(side.mask(events)) for side, events in zip(sides, last, strict=True)),
    )
    for side, events in zip(sides, last, strict=True):
        side.note_late([*side.emulator.between(), *events])
    late = [_by_source(side.mask(side.late), late=True) for side in sides]
    return found + compare(step, "late events", *late)


def _by_source(
    events: Sequence[dict[str, Any]], *, late: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Sort events by what they are of: only of one job or node is their order determined.

    Either those that come ``late``, or all others.

    A drained section pauses QEMU's jobs for a moment, or not, as it happens: the statuses
    ``PASSING``, and ``ready`` after one of them, are compared in queries only. How many requests of
    a job are in flight when one fails, so how often the error is reported, is no difference.
    """
    sources: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    standby: set[str] = set()
    for event in events:
        if (event["event"] in LATE) is not late:
            continue
        data = event.get("data", {})
        status = data.get("status")
        name = data.get("id") or data.get("device") or data.get("node-name")
        source = str(name or event["event"])
        if status == "standby":
            standby.add(source)
        if status in PASSING or (status == "ready" and source in standby):
            continue
        if event["event"] == "BLOCK_JOB_ERROR" and event in sources[source][-1:]:
            continue
        sources[source].append(event)
    return dict(sources)


def parts_ways(difference: Difference) -> bool:
    """Whether the two are not in the same state afterwards: only one refused, or answers."""
    if difference.where.endswith(SILENCE):
        return True
    path = difference.where.partition(" ")[2]
    return path.endswith(("/return", "/error")) and NOTHING in (
        difference.ours,
        difference.theirs,
    )
