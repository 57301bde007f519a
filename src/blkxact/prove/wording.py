"""Faults in words, for whoever wrote the tool."""

from __future__ import annotations

from typing import Final

from .faults import CALL_END, WHAT, Fault, Passing

_WHERE: Final = {
    "monitor.connected": "when the tool connects",
    "monitor.received": "before `{0}` is executed",
    "monitor.reply": "when `{0}` has been executed, and before its reply is sent",
    "monitor.event": "before the event `{0}` is sent",
    "transaction.prepare": "before `{0}` is prepared",
    "transaction.settled": "when a transaction has been committed or aborted",
    "job.start": "when the job {0} starts",
    "job.step": "while the job {0} copies",
    "job.before-flush": "when the job {0} has copied everything and flushes it",
    "job.prepare": "when the job {0} has done its work, before it completes",
    "job.conclude": "when the job {0} has completed, before its event is sent",
    "bitmap.freeze": "when a job is to use the bitmap {1} of {0}",
    "bitmap.abdicated": "when a job has succeeded and cleared the bitmap {1} of {0}",
    "bitmap.reclaimed": "when a job has failed and given back the bitmap {1} of {0}",
    "bitmap.store": "when {0} is closed and its bitmaps are stored",
    "export.add": "when the export {0} is added",
    "export.deleted": "when the export {0} has been deleted",
    "nbd.connected": "when an NBD client connects",
    "nbd.request": "before the NBD request {1} to {0} is carried out",
    "nbd.reply": "before the NBD request {1} to {0} is answered",
    "storage.open": "when {0} is opened",
    "storage.create": "when {0} is created",
    "storage.pread": "when {0} is read",
    "storage.map": "when {0} is looked at for holes",
    "storage.flush": "when {0} is flushed",
    "storage.pwrite": "when {0} is written to",
    "storage.write_zeroes": "when a part of {0} is zeroed",
    "storage.truncate": "when {0} is resized",
}
"""Point to when that is; the numbers stand for the words of its place."""
_LATE: Final = {"monitor.reply": "the reply to `{0}`", "monitor.event": "the event `{0}`"}
_FILE: Final = "file-"
"""Of an address: the tool's files are numbered in the order in which the emulator opens them."""
_UNNAMED: Final = "a node without a name"


def describe(fault: Fault) -> str:
    """Return what happens where, as part of a sentence."""
    passing, what = fault.passing, WHAT[fault.action]
    if passing.point == CALL_END:
        return f"when call {passing.call} has ended, {what}"
    if fault.action == "late":
        late = _LATE[passing.point].format(*passing.place)
        nth = "" if passing.nth == 1 else f" (the {_ordinal(passing.nth)} one)"
        return f"in call {passing.call}, {late}{nth} {what}"
    return f"in call {passing.call}, {_where(passing)}{_again(passing)}, {what}"


def _again(passing: Passing) -> str:
    return "" if passing.nth == 1 else f", the {_ordinal(passing.nth)} time"


def _where(passing: Passing) -> str:
    words = tuple(map(_in_words, passing.place))
    if passing.point == "transaction.prepare":
        words = (words[0].replace("_", " "),)
    return _WHERE[passing.point].format(*words)


def _in_words(word: str) -> str:
    if word.startswith(_FILE) and word.removeprefix(_FILE).isdecimal():
        return f"the {_ordinal(int(word.removeprefix(_FILE)))} file of the tool"
    return _UNNAMED if word.startswith("#block") else word


def _ordinal(number: int) -> str:
    if number % 100 not in (11, 12, 13):
        for last, ending in ((1, "st"), (2, "nd"), (3, "rd")):
            if number % 10 == last:
                return f"{number}{ending}"
    return f"{number}th"
