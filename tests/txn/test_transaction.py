"""The engine: every phase fails at every position, and the invariants of the engine hold."""

from __future__ import annotations

import asyncio

import pytest

from blkxact.errors import QmpError
from blkxact.runtime.trace import ActionStep, TraceEvent
from blkxact.transaction import Action, run_transaction

LENGTHS = (1, 2, 3, 5)


class Toy(Action):
    """Writes every step into a shared log; ``fails`` names the step that raises."""

    def __init__(self, name: str, log: list[str], fails: str = "") -> None:
        self.kind = name
        self.log = log
        self.fails = fails
        self.effect = 0

    def step(self, verb: str) -> None:
        self.log.append(f"{verb} {self.kind}")
        if self.fails == verb:
            raise QmpError(f"{self.kind} cannot {verb}")

    async def prepare(self) -> None:
        await asyncio.sleep(0)
        self.effect += 1
        self.step("prepare")

    def commit(self) -> None:
        self.step("commit")

    def abort(self) -> None:
        self.effect = 0
        self.step("abort")

    def clean(self) -> None:
        self.step("clean")


def toys(count: int, log: list[str], failing: int = -1, fails: str = "") -> list[Toy]:
    return [Toy(str(i), log, fails if i == failing else "") for i in range(count)]


@pytest.mark.parametrize("count", LENGTHS)
async def test_transaction_all_prepared_commits_in_order_then_cleans(count: int) -> None:
    log: list[str] = []
    await run_transaction(toys(count, log))
    names = [str(i) for i in range(count)]
    assert log == [f"{verb} {n}" for verb in ("prepare", "commit", "clean") for n in names]


async def test_transaction_without_actions_does_nothing() -> None:
    assert await run_transaction([]) is None


@pytest.mark.parametrize(
    ("count", "failing"), [(count, i) for count in LENGTHS for i in range(count)]
)
async def test_transaction_prepare_fails_aborts_registered_in_reverse(
    count: int, failing: int
) -> None:
    log: list[str] = []
    actions = toys(count, log, failing, "prepare")
    with pytest.raises(QmpError, match=f"{failing} cannot prepare"):
        await run_transaction(actions)
    touched = [str(i) for i in range(failing + 1)]
    assert log == (
        [f"prepare {n}" for n in touched]
        + [f"abort {n}" for n in reversed(touched)]
        + [f"clean {n}" for n in touched]
    )
    assert [action.effect for action in actions] == [0] * count


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("verb", ["commit", "clean"])
async def test_transaction_bug_in_a_settling_step_spares_the_others(
    verb: str, failing: int
) -> None:
    log: list[str] = []
    with pytest.raises(ExceptionGroup) as caught:
        await run_transaction(toys(3, log, failing, verb))
    assert [str(bug) for bug in caught.value.exceptions] == [f"{failing} cannot {verb}"]
    assert [line for line in log if line.startswith("commit")] == [f"commit {i}" for i in range(3)]
    assert [line for line in log if line.startswith("clean")] == [f"clean {i}" for i in range(3)]


@pytest.mark.parametrize("buggy", range(3))
async def test_transaction_bug_in_abort_spares_the_others(buggy: int) -> None:
    log: list[str] = []
    actions = [*toys(3, log, buggy, "abort"), Toy("3", log, "prepare")]
    with pytest.raises(ExceptionGroup):
        await run_transaction(actions)
    assert [line for line in log if line.startswith("abort")] == [
        "abort 3", "abort 2", "abort 1", "abort 0",
    ]  # fmt: skip
    assert len([line for line in log if line.startswith("clean")]) == 4


@pytest.mark.parametrize("position", range(3))
async def test_transaction_cancelled_while_preparing_aborts(position: int) -> None:
    log: list[str] = []
    started = asyncio.Event()

    class Hanging(Toy):
        async def prepare(self) -> None:
            self.log.append(f"prepare {self.kind}")
            self.effect = 1
            started.set()
            await asyncio.Event().wait()

    actions: list[Toy] = toys(3, log)
    actions[position] = Hanging("hanging", log)
    task = asyncio.create_task(run_transaction(actions))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(action.effect == 0 for action in actions)
    assert log.count("abort hanging") == 1
    assert not [line for line in log if line.startswith("commit")]


async def test_transaction_settling_is_not_interleaved() -> None:
    """Between the last prepare and the last clean no other task gets a turn."""
    log: list[str] = []

    async def neighbour() -> None:
        while True:
            log.append("neighbour")
            await asyncio.sleep(0)

    task = asyncio.create_task(neighbour())
    await run_transaction(toys(3, log))
    task.cancel()
    settled = log[log.index("commit 0") :]
    assert settled[:6] == [f"{verb} {i}" for verb in ("commit", "clean") for i in range(3)]


async def test_transaction_trace_tells_each_step() -> None:
    events: list[TraceEvent] = []
    log: list[str] = []
    with pytest.raises(QmpError):
        await run_transaction(toys(2, log, 1, "prepare"), events.append)
    assert events[2] == ActionStep("prepare", "1", "1 cannot prepare")
    assert [str(event) for event in events] == [
        "prepare 0",
        "prepare 1",
        "prepare 1 failed: 1 cannot prepare",
        "abort 1",
        "abort 0",
        "clean 0",
        "clean 1",
    ]
