"""Trace events: what an emulator does inside, step by step.

Each is plain data: it compares, prints as the line that ``serve -v`` shows, and can be stored as a
line of JSON (``record.kinds``). Whoever takes the step calls its ``Trace``; the daemon decides
where it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ActionStep:
    """An action of a transaction is prepared, committed, aborted or cleaned."""

    verb: str
    action: str
    error: str | None = None
    """Set once it has failed: the refusal of ``prepare``, or a bug in one of the others."""

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.verb} {self.action}"
        how = "failed" if self.verb == "prepare" else "raised"
        return f"{self.verb} {self.action} {how}: {self.error}"


@dataclass(frozen=True, slots=True)
class ReferenceChanged:
    """A holder took or dropped its reference to a transaction; ``held`` are left."""

    transaction: str | None
    change: Literal["taken", "dropped"]
    holder: str
    held: int

    def __str__(self) -> str:
        return (
            f"{_name(self.transaction)}: reference {self.change} by {self.holder}, {self.held} held"
        )


@dataclass(frozen=True, slots=True)
class BitmapSettled:
    """A bitmap that jobs of a transaction had frozen is free."""

    transaction: str | None
    node: str
    bitmap: str
    outcome: str

    def __str__(self) -> str:
        return f"{_name(self.transaction)}: bitmap {self.node}/{self.bitmap} {self.outcome}"


@dataclass(frozen=True, slots=True)
class TransactionOver:
    """All that a transaction started is over."""

    transaction: str | None
    ret: int

    def __str__(self) -> str:
        return f"{_name(self.transaction)}: all over, ret {self.ret}"


@dataclass(frozen=True, slots=True)
class JobError:
    """A request of a job failed; ``action`` is what the error policy says."""

    job: str | None
    operation: str
    error: str
    action: str

    def __str__(self) -> str:
        return f"job {self.job}: {self.operation}: {self.error}; action: {self.action}"


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job is settled; ``outcome`` is completed, cancelled or failed."""

    job: str | None
    outcome: str
    error: str | None = None

    def __str__(self) -> str:
        reason = f": {self.error}" if self.outcome == "failed" else ""
        return f"job {self.job}: {self.outcome}{reason}"


@dataclass(frozen=True, slots=True)
class ShuttingDown:
    """The process ends."""

    reason: str

    def __str__(self) -> str:
        return f"shutting down: {self.reason}"


TraceEvent = (
    ActionStep
    | ReferenceChanged
    | BitmapSettled
    | TransactionOver
    | JobError
    | JobEnded
    | ShuttingDown
)
Trace = Callable[[TraceEvent], None]


def no_trace(event: TraceEvent) -> None:
    """Drop the event."""


def _name(transaction: str | None) -> str:
    return f"transaction {transaction or '(unnamed)'}"
