"""Events that may come often are sent once a second."""

from __future__ import annotations

from blkxact.runtime.clock import SteppedClock
from blkxact.runtime.events import PERIOD_S, Event, EventSink


def test_of_many_reports_the_first_and_then_the_latest_are_sent() -> None:
    clock = SteppedClock()
    sink = EventSink(clock)
    sent: list[Event] = []
    sink.subscribe(sent.append)

    def seen() -> list[tuple[str, int]]:
        found = [(one["data"]["node-name"], one["data"]["sector-num"]) for one in sent]
        sent.clear()
        return found

    for sector in range(3):
        for node in ("a", "b"):
            sink.emit("QUORUM_REPORT_BAD", {"node-name": node, "sector-num": sector})
    assert seen() == [("a", 0), ("b", 0)]
    clock.advance(PERIOD_S)
    assert seen() == [("a", 2), ("b", 2)]
    sink.emit("QUORUM_REPORT_BAD", {"node-name": "a", "sector-num": 3})
    assert seen() == []
    clock.advance(PERIOD_S)
    assert seen() == [("a", 3)]
    clock.advance(2 * PERIOD_S)
    sink.emit("QUORUM_REPORT_BAD", {"node-name": "a", "sector-num": 4})
    assert seen() == [("a", 4)]


def test_other_events_are_all_sent() -> None:
    sink = EventSink(SteppedClock())
    sent: list[Event] = []
    sink.subscribe(sent.append)
    for _ in range(3):
        sink.emit("STOP")
    assert [one["event"] for one in sent] == ["STOP"] * 3
