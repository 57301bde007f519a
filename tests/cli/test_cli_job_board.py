"""The board of jobs tells what became of each, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from blkxact.cli.job_board import MAX_ENDED_BARS, JobBoard

MIB = 1 << 20


class Board:
    """A board whose clock the test moves and whose output it can read."""

    def __init__(self, *, terminal: bool) -> None:
        self.output = io.StringIO()
        self.time = 0.0
        console = Console(
            file=self.output, force_terminal=terminal, width=100, legacy_windows=False
        )
        self.board = JobBoard(console, now=lambda: self.time)


def job(name, current=0, total=MIB, status="running", **more):
    return {
        "id": name,
        "type": "backup",
        "status": status,
        "current-progress": current,
        "total-progress": total,
        **more,
    }


def ended(name, event="BLOCK_JOB_COMPLETED", **more):
    data = {"device": name, "type": "backup", "len": MIB, "offset": MIB, "speed": 0, **more}
    return {"event": event, "data": data}


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (ended("j"), "completed"),
        (ended("j", error="No space left on device"), "failed: No space left on device"),
        (ended("j", "BLOCK_JOB_CANCELLED"), "cancelled"),
    ],
)
def test_board_job_that_ends_by_event_has_its_outcome(event, outcome, terminal):
    shown = Board(terminal=terminal)
    with shown.board as board:
        board.show([job("j", MIB // 2)])
        assert board.busy
        shown.time = 2.0
        board.note(event)
        assert not board.busy
        board.show([])
    assert board.outcomes == {"j": outcome}
    assert outcome.partition(":")[0] in shown.output.getvalue()
    if terminal:
        assert "256 KiB/s" in shown.output.getvalue()


def test_board_job_too_fast_for_a_look_is_known_by_its_event():
    shown = Board(terminal=False)
    with shown.board as board:
        board.note(ended("j"))
    assert board.outcomes == {"j": "completed"}
    assert shown.output.getvalue().splitlines() == [
        "  j: backup started",
        "  j: completed (1 MiB copied)",
    ]


def test_board_concluded_job_tells_its_error_before_it_is_dismissed():
    with Board(terminal=False).board as board:
        board.show([job("j", status="concluded", error="boom")])
        board.show([])
    assert board.outcomes == {"j": "failed: boom"}


def test_board_job_that_vanishes_is_ended():
    with Board(terminal=False).board as board:
        board.show([job("j")])
        board.show([])
        assert not board.busy
    assert board.outcomes == {"j": "ended"}


def test_board_name_used_again_is_a_new_job():
    with Board(terminal=False).board as board:
        board.show([job("j")])
        board.note(ended("j", error="first"))
        board.show([])
        board.show([job("j")])
        assert board.busy
        assert board.outcomes == {}
        board.note(ended("j"))
    assert board.outcomes == {"j": "completed"}


def test_board_tells_jobs_in_the_order_of_their_start():
    shown = Board(terminal=False)
    with shown.board as board:
        board.show([job("second"), job("first")])
    assert [line.split(":")[0].strip() for line in shown.output.getvalue().splitlines()] == [
        "first",
        "second",
    ]


def test_board_runs_of_one_job_are_counted_in_one_bar():
    for terminal in (False, True):
        shown = Board(terminal=terminal)
        with shown.board as board:
            board.show([job("j")])
            board.note(ended("j", error="first"))
            board.note(ended("j"))  # a run between two looks
            board.show([job("j", status="concluded")])
            board.show([job("j")])
            board.show([])
        output = shown.output.getvalue()
        if terminal:
            last = output.rpartition("j (3)")[2]
            assert "ended" in last
            assert "failed" not in last
        else:
            assert output.splitlines() == [
                "  j: backup started",
                "  j: failed: first (1 MiB copied)",
                "  j (2): backup started",
                "  j (2): completed (1 MiB copied)",
                "  j (3): backup started",
                "  j (3): ended (0 B copied)",
            ]
        assert board.outcomes == {"j": "ended"}
        assert board.has_failed


def test_board_concluded_job_that_was_cancelled_has_not_failed():
    with Board(terminal=False).board as board:
        board.show([job("j", status="concluded", error="Operation canceled")])
    assert board.outcomes == {"j": "cancelled"}
    assert not board.has_failed


def test_board_keeps_few_bars_of_ended_jobs_and_all_of_running_ones():
    with Board(terminal=True).board as board:
        for number in range(3 * MAX_ENDED_BARS):
            board.show([job(f"j{number}"), job("long")])
            board.note(ended(f"j{number}"))
            board.show([job("long")])
        assert len(board._jobs) == MAX_ENDED_BARS + 1
        assert board.busy


@pytest.mark.parametrize("terminal", [True, False])
def test_board_error_is_shown_as_it_is(terminal):
    shown = Board(terminal=terminal)
    error = "[/red] [bold]x " + "long " * (5 if terminal else 50)
    with shown.board as board:
        board.note(ended("j", error=error.strip()))
    if terminal:
        assert "[/red]" in shown.output.getvalue()
    else:
        assert f"failed: {error.strip()} (1 MiB" in shown.output.getvalue()


def test_board_lost_jobs_are_unknown():
    with Board(terminal=False).board as board:
        board.show([job("j")])
        board.note(ended("k"))
        board.lose()
    assert board.outcomes == {"j": "unknown", "k": "completed"}
    assert board.has_failed


def test_board_answer_that_is_older_than_an_event_starts_no_new_run():
    shown = Board(terminal=False)
    with shown.board as board:
        board.show([job("j")])
        board.note(ended("j", error="No space left on device"))
        board.show([job("j", MIB // 2)])  # the server answered before the job ended
        board.show([])
    assert board.outcomes == {"j": "failed: No space left on device"}
    assert shown.output.getvalue().count("started") == 1
