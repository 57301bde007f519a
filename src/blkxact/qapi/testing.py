"""The commands that only a daemon with ``--testing`` has. They are blkxact's own (docs/kit.md)."""

from __future__ import annotations

from typing import Literal

from .common import Array, Int, Opt, QapiModel


class PointFact(QapiModel):
    """A fact that a passing must have: whole, or its first words."""

    name: str
    value: str


class FaultAdd(QapiModel):
    """x-blkxact-fault-add. ``times`` 0: from then on. ``seed`` is that of ``power``."""

    place: str
    facts: Opt[Array[PointFact]] = None
    action: Literal["fail", "cut", "kill", "power"] = "fail"
    nth: Int = 1
    times: Int = 1
    errno: Int = 5
    error: Opt[str] = None
    seed: Int = 0


class PowerFailure(QapiModel):
    """x-blkxact-lose-power."""

    seed: Int = 0


class FaultRemove(QapiModel):
    """x-blkxact-fault-remove: also ends a pause."""

    id: Int


class PauseAt(QapiModel):
    """x-blkxact-pause-at: with ``place`` it orders a pause, with ``id`` it waits for it."""

    place: Opt[str] = None
    facts: Opt[Array[PointFact]] = None
    nth: Int = 1
    id: Opt[Int] = None


class Step(QapiModel):
    """x-blkxact-step."""

    job: str
    release: bool = False


class ClockAdvance(QapiModel):
    """x-blkxact-clock."""

    milliseconds: Int


class RecordPoints(QapiModel):
    """x-blkxact-record."""

    enable: bool
