"""Time and chance are passed in: no module reads a clock, sets a timer or throws dice by itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import blkxact

SOURCE = Path(blkxact.__file__).parent

ALLOWED = {
    "runtime/clock.py": "the one place that knows the machine's time and the loop's timers",
    "runtime/steps.py": "yield_turn: a sleep of no time",
    "parts.py": "names of nodes are random where nothing was passed in",
    "image_tools/open_images.py": "entry point of `blkxact image`: builds what a daemon builds",
    "block/graph.py": "a seeded default: the names of nodes are the same in each run",
    "cli/client.py": "a client: how long it waits for a server in another process",
    "cli/qmp.py": "a client, as cli/client.py",
    "cli/watch.py": "a client, as cli/client.py",
    "cli/watch_web.py": "entry point of `blkxact watch --web`: the secret of its address",
    "cli/job_board.py": "a client: rates that a person sees",
    "cli/demo/emulator.py": "a client: waits for the daemon's process to start",
    "cli/demo/disks.py": "entry point: the demo's guest, seeded",
    "diff/emulator.py": "a client: how long it waits for emulators in other processes",
    "diff/sides.py": "a client, as diff/emulator.py",
    "diff/draw.py": "entry point of `blkxact diff`: commands by chance, seeded",
    "cli/prove.py": "entry point of `blkxact prove`: how long a sweep takes",
    "prove/case.py": "calls a tool in other processes, and notes when",
    "prove/emulator.py": "entry point of an emulator's process: names of nodes, seeded",
    "prove/host.py": "notes when a restarted emulator's disks were looked at",
    "prove/guest.py": "the guest's writes, by the seed of the case",
    "prove/setup.py": "what backing files hold, the same in all cases",
    "prove/started.py": "how long a command of the scenario may take",
    "prove/strikes.py": "what a power failure leaves, by the seed of the case",
    "prove/sweep.py": "how long a sweep may take",
    "kit/clock.py": "a clock that a test lets jump ahead, above the machine's",
    "kit/events.py": "a test's side: how long it waits for an event",
    "kit/remote.py": "what a power failure leaves, by the seed that a client gives",
    "kit/run.py": "entry point of the kit: the names of nodes and power failures, seeded",
    "testing/waiting.py": "asks the loop itself whether it is idle",
    "testing/loop.py": "the simulated loop: the source of its own time and chance",
    "testing/memory_file.py": "lives in a simulated loop; seeded by default",
    "testing/pytest_plugin.py": "entry point: draws the seed of a run",
}
"""Files that may, and why."""

_CLOCKS = {
    "time",
    "time_ns",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "sleep",
}
_ASYNCIO = {"sleep", "timeout", "timeout_at", "wait_for"}
_CHANCE = {"random", "secrets", "uuid"}


def _breach(call: ast.Call) -> str | None:
    """Return what a call does that is to be passed in."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return None
    owner, name = ast.unparse(function.value), function.attr
    is_clock = owner.rpartition(".")[2].lstrip("_") in ("clock", "virtual")
    if (
        (owner == "asyncio" and name in _ASYNCIO)
        or owner in _CHANCE
        or (owner, name) in (("os", "urandom"), ("datetime", "now"), ("datetime", "utcnow"))
        or (name in ("call_later", "call_at") and not is_clock)
        or (name == "time" and owner.endswith("loop()"))
        or (name == "time" and owner.rpartition(".")[2].lstrip("_") == "loop")
        or (owner == "asyncio" and name == "wait" and _has_timeout(call))
    ):
        return f"{owner}.{name}"
    return None


def _has_timeout(call: ast.Call) -> bool:
    return any(keyword.arg == "timeout" for keyword in call.keywords)


def breaches(source: str) -> list[str]:
    """Return the lines of a module that read a clock, set a timer or throw dice."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ({"time"} | _CHANCE):
            found.append(f"{node.lineno}: from {node.module} import")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time":
            if node.attr in _CLOCKS:
                found.append(f"{node.lineno}: time.{node.attr}")
        elif isinstance(node, ast.Call) and (what := _breach(node)) is not None:
            found.append(f"{node.lineno}: {what}")
    return found


def test_time_and_chance_come_from_outside_everywhere():
    found = {
        str(path.relative_to(SOURCE)): breaches(path.read_text()) for path in SOURCE.rglob("*.py")
    }
    assert {name: lines for name, lines in found.items() if lines and name not in ALLOWED} == {}


def test_files_that_may_know_the_time_do():
    """An exception that nothing needs any more goes."""
    assert [name for name in ALLOWED if not breaches((SOURCE / name).read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        "time.monotonic()",
        "from time import monotonic",
        "random.random()",
        "random.Random(1)",
        "await asyncio.sleep(0)",
        "asyncio.timeout(1)",
        "asyncio.get_running_loop().call_later(1, f)",
        "self._loop.time()",
        "asyncio.wait(tasks, timeout=1)",
    ],
)
def test_line_that_knows_the_time_by_itself_is_found(line):
    indented = line.replace("await", "x =  await")
    assert breaches(f"async def f():\n  {indented}")


@pytest.mark.parametrize(
    "line", ["clock.call_later(1, f)", "self._clock.sleep(1)", "asyncio.wait(t)"]
)
def test_line_that_asks_a_clock_is_not(line):
    assert not breaches(line)
