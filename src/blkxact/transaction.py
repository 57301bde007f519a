"""The engine: a list of actions is done as one, or not at all.

Laws (design.md section 3):

* All ``prepare`` run in order. An action is registered before its ``prepare`` starts, so its
  ``abort`` copes with a half-done ``prepare``.
* The first failure stops preparing. Registered actions are aborted in reverse order and the
  failure is raised. A cancelled ``prepare`` (the daemon stops) is a failure like any other.
* When all are prepared, all are committed in order.
* ``clean`` runs for every registered action, in order, after all commits or aborts.
* ``prepare`` may await. The others are synchronous and do not raise, so nothing interleaves while a
  transaction settles. If one raises all the same, that is a bug: the others still run, so that one
  bug does not cost somebody else's bitmap, and it is raised at the end.

The engine knows no QMP and no node. What goes on after the reply belongs to ``job.txn.JobTxn``.

QEMU's counterpart: ``util/transactions.c`` and ``qmp_transaction()``; of the 2015 series,
BlkActionOps (prepare, commit, abort, clean, and cb, which is ``complete`` here).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from .trace import Trace, no_trace


class Action(ABC):
    """One action of a transaction (BlkActionState with its BlkActionOps)."""

    kind: str
    """TransactionActionKind."""

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
        """Let go of what only the transaction needed."""

    def complete(self, ret: int) -> None:  # noqa: B027 - most actions start nothing
        """Hear that all is over that the transaction started, with the return code of the whole.

        Called once, after the reply, from ``job.txn.JobTxn``; only if all was committed.
        """


async def run_transaction(actions: Iterable[Action], trace: Trace = no_trace) -> None:
    """Run the actions as one; raise the error of the first that cannot be prepared."""
    registered: list[Action] = []
    try:
        for action in actions:
            registered.append(action)
            if trace is not no_trace:  # naming a thousand actions takes as long as doing them
                trace(f"prepare {action}")
            await action.prepare()
    except BaseException as error:
        trace(f"prepare {registered[-1]} failed: {error}")
        _settle("abort", reversed(registered), registered, trace)
        raise
    _settle("commit", registered, registered, trace)


def _settle(verb: str, order: Iterable[Action], registered: list[Action], trace: Trace) -> None:
    """Call ``verb`` on each action in ``order``, then ``clean`` on all that are registered."""
    bugs: list[Exception] = []
    for action in order:
        _call(action, verb, trace, bugs)
    for action in registered:
        _call(action, "clean", trace, bugs)
    if bugs:
        raise ExceptionGroup(f"a transaction's {verb} or clean raised", bugs)


def _call(action: Action, verb: str, trace: Trace, bugs: list[Exception]) -> None:
    if trace is not no_trace:
        trace(f"{verb} {action}")
    try:
        getattr(action, verb)()
    except Exception as bug:  # noqa: BLE001 - whatever it is, the others must still settle
        trace(f"{verb} {action} raised: {bug!r}")
        bugs.append(bug)
