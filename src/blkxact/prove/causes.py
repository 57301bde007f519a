"""Why a case fails, as far as its facts show: the mistake that a person would look for."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from itertools import takewhile
from typing import Final, NamedTuple

from .bitmap_work import (
    ABDICATED,
    ADD,
    CLEAR,
    CLEAR_IN_TRANSACTION,
    REMOVE_INCONSISTENT,
    removal_of,
)
from .faults import Fault, parse_fault
from .results import CallReport, Result, Verdict


class _Text(NamedTuple):
    name: str
    text: str


def _of(name: str, *text: str) -> _Text:
    return _Text(name, " ".join(text))


class Cause(Enum):
    """A kind of mistake: its name, and what is wrong with the tool."""

    FAILED_JOB_CLAIMED = _of(
        "failed-job-claimed",
        "A job failed, and the call claimed a backup all the same. The end of a job has to be",
        "looked at: BLOCK_JOB_COMPLETED may have an `error`.",
    )
    CLEARED_WITH_FAILED = _of(
        "bitmap-cleared-with-failed-backup",
        "The bitmap was cleared in the transaction that started the backup, and stayed cleared",
        "when the job failed later. What had been dirty is in no backup.",
    )
    REMOVED_EARLY = _of(
        "bitmap-removed-early",
        "The bitmap that had recorded since the last good backup was removed before the next one",
        "was complete. When that failed, nothing knew any more what had been written before it.",
    )
    GIVEN_UP = _of(
        "dirty-bits-given-up",
        "The backup failed, but the next one did not contain what this one should have.",
    )
    LOST_REPLY = _of(
        "unrecorded-backup-cleared-the-bitmap",
        "The tool lost sight of a backup that went on without it: the job succeeded and cleared",
        "the bitmap, but the tool never recorded that backup. What it contained is in no backup",
        "that the tool knows.",
    )
    PARTIAL_FILE = _of(
        "remains-taken-for-a-backup",
        "The call claimed a backup without running a job for each disk: it took a file that an",
        "earlier, unfinished call had left for a finished one.",
    )
    INCONSISTENT_USED = _of(
        "inconsistent-bitmap-taken-for-good",
        "After a crash of the emulator the bitmap was inconsistent. The tool replaced it and went",
        "on with an incremental backup; only a full one would have been right.",
    )
    NOT_PERSISTENT = _of(
        "bitmap-not-persistent",
        "The bitmap did not survive a restart of the emulator. The tool began a new one and went",
        "on with an incremental backup; only a full one would have been right.",
    )
    NOT_DURABLE = _of(
        "not-durable",
        "The tool claimed a backup before it was on the disk: after a power failure it was gone.",
        "Files have to be synced before they are renamed, and renamed before the call ends.",
    )
    SEVERAL_MOMENTS = _of(
        "several-moments",
        "Each disk is right for some moment, but not all for the same: they were not backed up in",
        "one transaction.",
    )
    CLEAR_AFTER_BACKUP = _of(
        "cleared-outside-of-the-transaction",
        "The bitmap was cleared by a command of its own and not in the transaction of the backup:",
        "what the guest wrote between the two is in no backup.",
    )
    BITMAP_AFTER_BACKUP = _of(
        "bitmap-added-late",
        "The bitmap was added by a command of its own after the backup had begun: what the guest",
        "wrote between the two is in no backup.",
    )
    GAP = _of(
        "writes-in-no-backup",
        "What the guest wrote during the call is in neither this backup nor the next.",
    )
    EVENT_BEFORE_REPLY = _of(
        "event-before-reply-missed",
        "The tool waits for the end of a job that had been reported already. A job may end before",
        "the reply to the command that starts it, or together with it: listen before that.",
    )
    WAITS_FOREVER = _of(
        "waits-for-a-dead-emulator",
        "What the tool waits for will never come, as the emulator or its connection is gone, and",
        "the tool sets no limit to its waiting.",
    )
    HANGS = _of("hangs", "The call does not end.")
    RESTORE_FAILS = _of(
        "restore-fails",
        "The call claimed a backup, but the tool's own restore fails: what an earlier call left is",
        "in its way, or the backup is based on what was lost.",
    )
    LOST = _of("backup-lost", "What was claimed does not restore.")
    STUCK = _of("stuck", "After the fault no call succeeds any more, not even a full backup.")
    LITTER = _of("litter", "The tool leaves things in the emulator that it removes otherwise.")
    CRASH = _of("emulator-fault", "The emulator did something wrong. This is a bug of blkxact.")

    @property
    def title(self) -> str:
        """The name for programs."""
        name: str = self.value.name
        return name

    @property
    def text(self) -> str:
        """What a person reads."""
        text: str = self.value.text
        return text


class _Facts(NamedTuple):
    fault: Fault
    struck: CallReport
    """The call in which it struck."""
    wrong: CallReport
    """The first call whose claim does not restore."""
    good: int
    """The last call before that one that made a backup; 0: there is none."""

    @property
    def same(self) -> bool:
        return self.struck.number == self.wrong.number


def cause_of(result: Result) -> Cause:
    """Return the cause of a result that is neither sound nor honest."""
    plain = {Verdict.CRASH: Cause.CRASH, Verdict.STUCK: Cause.STUCK, Verdict.LITTER: Cause.LITTER}
    struck = next((call for call in result.calls if call.struck), None)
    if result.verdict is Verdict.STUCK and struck is not None and struck.lost:
        return Cause.NOT_DURABLE
    if result.verdict in plain:
        return plain[result.verdict]
    if result.verdict is Verdict.HANG:
        return _hang(next(call for call in result.calls if call.ended == "hung"))
    if struck is None:
        return Cause.LOST
    fault = parse_fault(struck.struck[0])
    wrong = next(call for call in result.calls if call.wrong)
    good = (call.number for call in result.calls if call.ended == "ok")
    last = max((number for number in good if number < wrong.number), default=0)
    return _loss(result, _Facts(fault, struck, wrong, last))


def _hang(hung: CallReport) -> Cause:
    """Return why a call hangs: also without a fault in it, if that depends on who is faster."""
    actions = {parse_fault(text).action for text in hung.struck}
    if actions & {"cut", "stall", "kill", "quit", "power"}:
        return Cause.WAITS_FOREVER
    return Cause.EVENT_BEFORE_REPLY if 0 < hung.jobs <= hung.ended_jobs else Cause.HANGS


def _loss(result: Result, facts: _Facts) -> Cause:
    if facts.wrong.moments and facts.same:
        return Cause.SEVERAL_MOMENTS
    if facts.same and facts.fault.action == "power":
        return Cause.NOT_DURABLE
    if not facts.same and facts.wrong.unrestorable:
        return Cause.NOT_DURABLE if facts.struck.lost else Cause.RESTORE_FAILS
    usual = max(call.jobs for call in result.calls)
    if not facts.same and facts.wrong.jobs < usual:
        return Cause.PARTIAL_FILE
    return _BY_ACTION[facts.fault.action.removesuffix("+")](facts)


def _after_error(facts: _Facts) -> Cause:
    if facts.same:
        return Cause.FAILED_JOB_CLAIMED
    if CLEAR_IN_TRANSACTION in facts.struck.bitmaps:
        return Cause.CLEARED_WITH_FAILED
    if _is_removed_early(facts):
        return Cause.REMOVED_EARLY
    if ABDICATED in facts.struck.bitmaps:  # by the job of another disk, which succeeded
        return Cause.LOST_REPLY
    return Cause.GIVEN_UP


def _is_removed_early(facts: _Facts) -> bool:
    """Return whether the bitmap of the last good backup was removed before there was another."""
    before = takewhile(lambda work: not work.startswith(ADD), facts.wrong.bitmaps)
    gone = removal_of(facts.good)
    return gone in before or (facts.struck.number > facts.good and gone in facts.struck.bitmaps)


def _after_lost_contact(facts: _Facts) -> Cause:
    if facts.same:
        return Cause.LOST
    if ABDICATED in facts.struck.bitmaps:
        return Cause.LOST_REPLY
    return _after_error(facts)


def _after_restart(facts: _Facts) -> Cause:
    if facts.same:
        return Cause.LOST
    first = facts.wrong.bitmaps[0] if facts.wrong.bitmaps else ""
    if first == REMOVE_INCONSISTENT:
        return Cause.INCONSISTENT_USED
    if first == ADD:
        return Cause.NOT_PERSISTENT
    cause = _after_lost_contact(facts)  # the restart ended a backup, as a failure would
    return Cause.LOST if cause is Cause.GIVEN_UP else cause


def _after_write(facts: _Facts) -> Cause:
    if facts.same:
        return Cause.LOST
    if CLEAR in facts.struck.bitmaps:
        return Cause.CLEAR_AFTER_BACKUP
    if ADD in facts.struck.bitmaps:
        return Cause.BITMAP_AFTER_BACKUP
    return Cause.GAP


_BY_ACTION: Final[dict[str, Callable[[_Facts], Cause]]] = {
    **dict.fromkeys(("EIO", "ENOSPC", "refuse", "lock"), _after_error),
    **dict.fromkeys(("cut", "stall", "kill-client", "late"), _after_lost_contact),
    **dict.fromkeys(("kill", "quit", "crash", "power"), _after_restart),
    "write": _after_write,
}
