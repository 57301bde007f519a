"""Commands for tests in any language: faults, pauses, steps, time, and a record of what happens.

Only a daemon that was started with ``--testing`` has them. They wait for no other command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from blkxact.errors import QmpError

from .command import Command

if TYPE_CHECKING:
    from blkxact.block_layer import BlockLayer
    from blkxact.qapi.testing import (
        ClockAdvance,
        FaultAdd,
        FaultRemove,
        PauseAt,
        PointFact,
        PowerFailure,
        RecordPoints,
        Step,
    )
    from blkxact.runtime.test_control import TestControl


def fault_add(layer: BlockLayer, args: FaultAdd) -> dict[str, Any]:
    """x-blkxact-fault-add."""
    number = _control(layer).add_fault(
        args.place,
        _facts(args.facts),
        action=args.action,
        nth=args.nth,
        times=args.times or None,
        errno=args.errno,
        error=args.error,
        seed=args.seed,
    )
    return {"id": number}


def lose_power(layer: BlockLayer, args: PowerFailure) -> None:
    """x-blkxact-lose-power: there is no reply."""
    _control(layer).lose_power(args.seed)


def fault_remove(layer: BlockLayer, args: FaultRemove) -> dict[str, Any]:
    """x-blkxact-fault-remove."""
    return {"struck": _control(layer).remove(args.id)}


async def pause_at(layer: BlockLayer, args: PauseAt) -> dict[str, Any]:
    """x-blkxact-pause-at."""
    control = _control(layer)
    if (args.place is None) == (args.id is None):
        raise QmpError("Either 'place' or 'id' is required")
    if args.place is not None:
        return {"id": control.add_pause(args.place, _facts(args.facts), nth=args.nth)}
    assert args.id is not None
    await control.reached(args.id)
    return {"id": args.id}


async def step(layer: BlockLayer, args: Step) -> dict[str, Any]:
    """x-blkxact-step."""
    control = _control(layer)
    if args.release:
        await control.release(args.job)
        return {"more": False}
    return {"more": await control.step(args.job)}


async def clock(layer: BlockLayer, args: ClockAdvance) -> None:
    """x-blkxact-clock."""
    if args.milliseconds < 0:
        raise QmpError("Parameter 'milliseconds' expects a non-negative value")
    await _control(layer).advance(args.milliseconds / 1000)


def record(layer: BlockLayer, args: RecordPoints) -> dict[str, Any]:
    """x-blkxact-record."""
    return {"passings": _control(layer).record(enable=args.enable)}


def _control(layer: BlockLayer) -> TestControl:
    assert layer.test_control is not None, "the table has these commands only then"
    return layer.test_control


def _facts(facts: list[PointFact] | None) -> dict[str, str]:
    return {fact.name: fact.value for fact in facts or ()}


COMMANDS: Final = [
    Command("x-blkxact-clock", clock, "testing:ClockAdvance", locked=False),
    Command("x-blkxact-fault-add", fault_add, "testing:FaultAdd", locked=False),
    Command("x-blkxact-fault-remove", fault_remove, "testing:FaultRemove", locked=False),
    Command("x-blkxact-lose-power", lose_power, "testing:PowerFailure", locked=False),
    Command("x-blkxact-pause-at", pause_at, "testing:PauseAt", locked=False),
    Command("x-blkxact-record", record, "testing:RecordPoints", locked=False),
    Command("x-blkxact-step", step, "testing:Step", locked=False),
]
