"""Cases, what becomes of them, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from .faults import Fault, FaultError, Passing, parse_fault

RECOVERY: Final = ("incremental", "full")
"""The calls without faults after those with."""


class Verdict(StrEnum):
    """What a case shows, the worst first."""

    CRASH = "CRASH"
    """Our own emulator is at fault."""
    HANG = "HANG"
    LOSS = "LOSS"
    """What a call claimed to have backed up does not restore."""
    STUCK = "STUCK"
    """After the fault no call succeeds, not even a full backup."""
    LITTER = "LITTER"
    """Nodes, jobs, bitmaps or exports are left that are not there otherwise."""
    HONEST = "honest"
    """A call failed and said so; the next are sound."""
    SOUND = "sound"
    MISSED = "missed"
    """The fault did not strike: the tool did something else before."""

    @property
    def fails(self) -> bool:
        """Whether it makes the whole sweep fail."""
        return self in (Verdict.LOSS, Verdict.STUCK, Verdict.HANG, Verdict.CRASH)


@dataclass(frozen=True)
class Case:
    """Faults and a seed; as text ``SEED:FAULT,FAULT``."""

    faults: tuple[Fault, ...] = ()
    seed: int = 1

    def __str__(self) -> str:
        return f"{self.seed}:{','.join(map(str, self.faults))}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """Return the case that a text names; raises ``FaultError``."""
        seed, colon, rest = text.partition(":")
        if not colon or not seed.isdecimal():
            raise FaultError(f"'{text}' is no case: SEED:FAULT,FAULT...")
        return cls(tuple(parse_fault(each) for each in rest.split(",") if each), int(seed))


@dataclass(frozen=True)
class CallReport:
    """What became of one call of the tool."""

    number: int
    verb: str
    ended: str
    """``ok``, ``failed``, ``killed`` or ``hung``."""
    status: int
    printed: str
    struck: tuple[str, ...] = ()
    """The faults that struck in it."""
    lost: tuple[str, ...] = ()
    """Files that a power failure emptied."""
    wrong: tuple[str, ...] = ()
    """What is wrong with what it claims."""
    unrestorable: bool = False
    """The tool's own restore fails."""
    moments: bool = False
    """Each wrong page is right for some other moment."""
    bitmaps: tuple[str, ...] = ()
    """What was done to bitmaps in it: lines of ``bitmap_work``."""
    jobs: int = 0
    """How many jobs began in it."""
    ended_jobs: int = 0
    """How many events about the end of a block job were sent in it."""


@dataclass(frozen=True)
class Result:
    """What a case shows."""

    case: Case
    verdict: Verdict
    calls: tuple[CallReport, ...] = ()
    notes: tuple[str, ...] = ()
    """What is left, or what the emulator did wrong."""
    seconds: float = 0.0
    tool_seconds: float = 0.0
    """Seconds that the tool ran, of ``seconds``."""
    passings: tuple[Passing, ...] = ()
    """The record, if it is kept; of a case with faults what the one without does not have."""
    state: Mapping[str, int] = field(default_factory=dict)
    """What is in the emulator in the end; of a case without faults the most after any call."""
    modules: tuple[str, ...] = ()
    """What the emulator has loaded, of a case without faults: forks of who has it start faster."""


def verdict_of(
    case: Case,
    calls: Sequence[CallReport],
    bugs: Sequence[str],
    left: Sequence[str],
) -> tuple[Verdict, Sequence[str]]:
    """Return the verdict and its notes.

    ``bugs`` is what the emulator did wrong, ``left`` what is there in the end and should not be.
    """
    recovery = calls[-len(RECOVERY) :]
    struck = any(call.struck for call in calls)
    failed = any(call.ended != "ok" for call in calls)
    verdicts = (
        (Verdict.CRASH, bool(bugs)),
        (Verdict.HANG, any(call.ended == "hung" for call in calls)),
        (Verdict.LOSS, any(call.wrong for call in calls)),
        (Verdict.MISSED, bool(case.faults) and not struck),
        (Verdict.STUCK, bool(case.faults) and all(call.ended != "ok" for call in recovery)),
        (Verdict.LITTER, bool(left)),
        (Verdict.HONEST, failed),
    )
    verdict = next((verdict for verdict, applies in verdicts if applies), Verdict.SOUND)
    notes = {Verdict.CRASH: bugs, Verdict.LITTER: left}
    return verdict, notes.get(verdict, ())
