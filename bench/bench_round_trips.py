"""Serial QMP round trips: one small command, its reply, the next.

On one processor the two take turns without waking each other; on two they do, if the server sleeps.
"""

from __future__ import annotations

import contextlib
import time

from .harness import Figure, Server, Settings, encode, one_processor, servers

ROUND_TRIPS = 4000
COMMANDS = ("query-version", "query-block-jobs")
MUST = 3.0
"""With client and server on all processors."""
SLOW_ROUND_TRIPS = 500
SLOW_PAUSE_S = 0.001


def run(settings: Settings) -> list[Figure]:
    """Measure both commands, on one processor and on all; then what a slow client costs."""
    with one_processor(), servers(settings) as running:
        figures = _rates(settings, running, "one processor", None)
    with servers(settings) as running:
        figures += _rates(settings, running, "all processors", MUST)
        return [*figures, _cost(settings, running)]


def _rates(
    settings: Settings, running: list[Server], where: str, must: float | None
) -> list[Figure]:
    figures = {
        command: Figure(f"round trips, {where}, {command}", "1/s", more_is_better=True, must=must)
        for command in COMMANDS
    }
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


def _cost(settings: Settings, running: list[Server]) -> Figure:
    """Return the processor time of a request whose client pauses before the next."""
    pause = f"{SLOW_PAUSE_S * 1000:.0f} ms"
    figure = Figure(f"... with pauses of {pause}, processor time", "us", more_is_better=False)
    message = encode(COMMANDS[0])
    for _ in range(settings.turns):
        for server in running:
            with contextlib.suppress(FileNotFoundError):  # a thread may have ended
                before = server.run_seconds()
                for _ in range(SLOW_ROUND_TRIPS):
                    server.repeat(message, 1)
                    time.sleep(SLOW_PAUSE_S)
                spent = server.run_seconds() - before
                figure.add(server.name, spent / SLOW_ROUND_TRIPS * 1e6)
    return figure
