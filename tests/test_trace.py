"""Trace events: data that prints as a line, and comes back from JSON as it was."""

from __future__ import annotations

import json

import pytest

from blkxact.record.kinds import as_json, from_json
from blkxact.runtime.trace import (
    ActionStep,
    BitmapSettled,
    JobEnded,
    JobError,
    ReferenceChanged,
    ShuttingDown,
    TransactionOver,
)

EVENTS = [
    (ActionStep("prepare", "drive-backup a"), "prepare drive-backup a"),
    (ActionStep("prepare", "abort", "no"), "prepare abort failed: no"),
    (ActionStep("clean", "abort", "bug"), "clean abort raised: bug"),
    (ReferenceChanged("t", "taken", "job j", 2), "transaction t: reference taken by job j, 2 held"),
    (BitmapSettled(None, "n", "b", "kept"), "transaction (unnamed): bitmap n/b kept"),
    (TransactionOver("t", -5), "transaction t: all over, ret -5"),
    (JobError("j", "write", "full", "stop"), "job j: write: full; action: stop"),
    (JobEnded("j", "completed"), "job j: completed"),
    (JobEnded("j", "failed", "full"), "job j: failed: full"),
    (JobEnded("j", "cancelled", "Operation canceled"), "job j: cancelled"),
    (ShuttingDown("host-signal"), "shutting down: host-signal"),
]


@pytest.mark.parametrize(("event", "line"), EVENTS, ids=[line for _, line in EVENTS])
def test_trace_event_prints_as_a_line_and_comes_back_from_json(event, line):
    assert str(event) == line
    assert from_json(json.loads(json.dumps(as_json(event)))) == event


def test_trace_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="there is no kind of event 'Nonsense'"):
        from_json({"trace": "Nonsense"})
