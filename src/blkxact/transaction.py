"""The engine: a list of actions is done as one, or not at all.

Invariants:

* All ``prepare`` run in order. An action is registered before its ``prepare`` starts, so its
  ``abort`` handles an incomplete ``prepare``.
* The first failure stops preparing. Registered actions are aborted in reverse order and the
  failure is raised. A cancelled ``prepare`` (the daemon stops) is a failure like any other.
* When all are prepared, all are committed in order.
* ``clean`` runs for every registered action, in order, after all commits or aborts.
* ``prepare`` may await. ``commit``, ``abort`` and ``clean`` are synchronous and do not raise, so
  nothing interleaves while a transaction settles. If one raises all the same, that is a bug, and
  the others still run (``settle``).
* ``finish`` runs last, for what has to wait: the transaction is settled, and an error is logged.

The engine knows no QMP and no node. What goes on after the reply belongs to ``job.txn.JobTxn``.

QEMU's counterpart: ``util/transactions.c`` and ``qmp_transaction()``; of the 2015 series,
BlkActionOps (prepare, commit, abort, clean, and cb, which is ``complete`` here).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from enum import IntEnum
from operator import attrgetter
from typing import ClassVar, Final

from blkxact.errors import QmpError
from blkxact.runtime.points import Points
from blkxact.runtime.settle import Settling
from blkxact.runtime.steps import yield_turn
from blkxact.runtime.trace import ActionStep, Trace, no_trace

PREPARES_PER_TURN: Final = 8
"""Actions prepared before other tasks of the loop get their turn."""

_log = logging.getLogger(__name__)


class FinishStage(IntEnum):
    """The order in which actions finish: an image is written before it becomes read-only."""

    WRITE = 0
    REOPEN = 1


class Action(ABC):
    """One action of a transaction (BlkActionState with its BlkActionOps)."""

    kind: str
    """TransactionActionKind."""

    finish_stage: ClassVar[FinishStage] = FinishStage.WRITE

    def __str__(self) -> str:
        """Name the action to a person."""
        return self.kind

    @abstractmethod
    async def prepare(self) -> None:
        """Do all that can fail. Raises ``QmpError`` when it does."""

    def commit(self) -> None:  # noqa: B027 - most actions are complete when they are prepared
        """Make it final. Only called when every action was prepared."""

    def abort(self) -> None:  # noqa: B027 - an action without effects has nothing to undo
        """Undo ``prepare``, however far it came."""

    def clean(self) -> None:  # noqa: B027 - most actions hold nothing
        """Release what only the transaction needed."""

    async def finish(self, *, committed: bool) -> None:  # noqa: B027 - most actions leave nothing
        """Do what ``commit`` or ``abort``, which cannot wait, left over.

        Called once after all are settled, with requests still held. ``QmpError`` and ``OSError``
        are logged: the transaction stands.
        """

    def complete(self, ret: int) -> None:  # noqa: B027 - most actions start nothing
        """React to the end of everything that the transaction started.

        ``ret`` is the return code of the whole. Called once, after the reply, by
        ``job.txn.JobTxn``, and only if all was committed.
        """


async def run_transaction(
    actions: Iterable[Action], trace: Trace = no_trace, points: Points | None = None
) -> None:
    """Run the actions as one; raise the error of the first that cannot be prepared."""
    points = Points() if points is None else points
    registered: list[Action] = []
    try:
        for number, action in enumerate(actions, 1):
            registered.append(action)
            if number % PREPARES_PER_TURN == 0:
                await yield_turn()
            if trace is not no_trace:  # naming a thousand actions takes as long as doing them
                trace(ActionStep("prepare", str(action)))
            if points.listening:
                await points.reach("transaction.prepare", action=str(action))
            await action.prepare()
    except BaseException as error:
        trace(ActionStep("prepare", str(registered[-1]), str(error)))
        await _end("abort", registered, trace, points)
        raise
    await _end("commit", registered, trace, points)


async def _end(verb: str, registered: list[Action], trace: Trace, points: Points) -> None:
    """Settle all actions, then let them finish."""
    committed = verb == "commit"
    try:
        with Settling(f"a transaction's {verb} or clean") as settling:
            order = registered if committed else registered[::-1]
            calls = [*((verb, action) for action in order), *(("clean", a) for a in registered)]
            for called, action in calls:
                _call(settling, action, called, trace, points)
            settling.call(points.hit, "transaction.settled", committed=committed)
    finally:
        for action in sorted(registered, key=attrgetter("finish_stage")):
            try:
                if points.listening:
                    await points.reach("transaction.finish", action=str(action))
                await action.finish(committed=committed)
            except (QmpError, OSError) as error:
                _log.warning("after a transaction: %s: %s", action, error)


def _call(settling: Settling, action: Action, verb: str, trace: Trace, points: Points) -> None:
    if points.listening:
        settling.call(points.hit, f"transaction.{verb}", action=str(action))
    if trace is not no_trace:
        trace(ActionStep(verb, str(action)))
    bug = settling.call(getattr(action, verb))
    if bug is not None:
        trace(ActionStep(verb, str(action), repr(bug)))
