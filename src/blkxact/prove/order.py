"""Which faults a record gives rise to, and in which order they are tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from .faults import ACTIONS, CALL_END, Fault, Passing

STARTS_JOBS: Final = frozenset(
    {"transaction", "blockdev-backup", "drive-backup", "blockdev-mirror", "drive-mirror"}
)
TELLING_CALL: Final = 2
"""The first call that builds on another."""
TELLING: Final = STARTS_JOBS | {"BLOCK_JOB_COMPLETED"}
"""Commands and events at which more can go wrong than at others."""
_POINTS: Final = tuple(ACTIONS)


def faults_of(passings: Iterable[Passing]) -> Iterator[Fault]:
    """Yield all that can happen at the passings of a record."""
    for passing in passings:
        for action in ACTIONS.get(passing.point, ()):
            is_reply = passing.point == "monitor.reply"
            if action == "late" and is_reply and passing.place[0] not in STARTS_JOBS:
                continue
            yield Fault(passing, action)


def in_order(passings: Sequence[Passing]) -> list[Fault]:
    """Return all faults of a record, those first that are likely to show something new.

    One of each action at each point comes first, where it shows most, and at the end of each call.
    Then comes one for each
    command and event, then a second one, and so on. Of an address the first and the last passing
    come before those in between.
    """
    last: dict[tuple[int, str], int] = {}
    for passing in passings:
        last[passing.call, passing.address] = passing.nth

    def rank(fault: Fault) -> tuple[object, ...]:
        passing = fault.passing
        is_last = passing.nth == last[passing.call, passing.address]
        return (
            0 if passing.nth == 1 else 1 if is_last else 2,
            passing.call != TELLING_CALL,
            TELLING.isdisjoint(passing.place),
            _POINTS.index(passing.point),
            passing,  # and not which of two jobs was faster in this run
        )

    kinds: Counter[tuple[str, ...]] = Counter()
    begun: set[tuple[str, ...]] = set()
    places: dict[Fault, int] = {}
    for fault in sorted(faults_of(passings), key=rank):
        kind = _kind_of(fault)
        coarse = kind if fault.passing.point == CALL_END else kind[:2]
        places[fault] = kinds[kind] if coarse in begun else -1
        begun.add(coarse)
        kinds[kind] += 1
    return sorted(places, key=places.__getitem__)


def _kind_of(fault: Fault) -> tuple[str, ...]:
    """Return the point and the action, and which command, event or end of a call it is about."""
    passing = fault.passing
    about = passing.place[:1] if passing.point.startswith("monitor.") else ()
    if passing.point == CALL_END:
        about = (str(passing.call),)
    return (passing.point, fault.action, *about)
