"""One transaction of 1,000 bitmap actions: parsing, validation, prepare, commit, reply."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .harness import Figure, Server, Settings, one_processor, servers

ACTIONS = 1000
DISK_SIZE = 1 << 30

Action = dict[str, Any]


def run(settings: Settings) -> list[Figure]:
    """Measure adding, changing (clear, disable, enable, merge in turn) and removing."""
    steps: dict[str, Callable[[int], Action]] = {"add": _add, "change": _change, "remove": _remove}
    figures = {
        step: Figure(f"transaction of {ACTIONS}, {step}", "µs each", more_is_better=False)
        for step in steps
    }
    with one_processor(), servers(settings) as running:
        for server in running:
            server.execute("blockdev-add", driver="null-co", node_name="disk", size=DISK_SIZE)
            server.execute("block-dirty-bitmap-add", node="disk", name="source")
        for _ in range(settings.turns):
            for server in running:
                for step, make in steps.items():
                    figures[step].add(server.name, _microseconds_per_action(server, make))
    return list(figures.values())


def _microseconds_per_action(server: Server, make: Callable[[int], Action]) -> float:
    actions = [make(number) for number in range(ACTIONS)]
    started = time.perf_counter()
    server.execute("transaction", actions=actions)
    return (time.perf_counter() - started) / ACTIONS * 1e6


def _action(kind: str, number: int, **more: Any) -> Action:
    return {"type": kind, "data": {"node": "disk", "name": f"bitmap{number}", **more}}


def _add(number: int) -> Action:
    return _action("block-dirty-bitmap-add", number, granularity=65536)


def _change(number: int) -> Action:
    if number % 4 == 3:
        target = {"node": "disk", "target": f"bitmap{number}", "bitmaps": ["source"]}
        return {"type": "block-dirty-bitmap-merge", "data": target}
    verb = ("clear", "disable", "enable")[number % 4]
    return _action(f"block-dirty-bitmap-{verb}", number)


def _remove(number: int) -> Action:
    return _action("block-dirty-bitmap-remove", number)
