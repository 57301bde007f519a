"""Serial QMP round trips: one small command, its reply, the next."""

from __future__ import annotations

import time

from .harness import Figure, Server, Settings, encode, one_processor, servers

ROUND_TRIPS = 4000
COMMANDS = ("query-version", "query-block-jobs")


def run(settings: Settings) -> list[Figure]:
    """Measure both commands."""
    figures = {
        command: Figure(f"round trips, {command}", "1/s", more_is_better=True)
        for command in COMMANDS
    }
    with one_processor(), servers(settings) as running:
        for turn in range(settings.turns + 1):
            for server in running:
                for command, figure in figures.items():
                    rate = _rate(server, encode(command))
                    if turn:  # the first is for warming up
                        figure.add(server.name, rate)
    return list(figures.values())


def _rate(server: Server, message: bytes) -> float:
    started = time.perf_counter()
    server.repeat(message, ROUND_TRIPS)
    return ROUND_TRIPS / (time.perf_counter() - started)
