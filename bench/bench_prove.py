"""What ``blkxact prove`` costs: cases a second, how much of a case is the tool's, more workers.

The tool is the careful client of the examples; the cases are the first of its sweep. QEMU has no
counterpart.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from blkxact.prove.scenario import Scenario, load
from blkxact.prove.sweep import Sweep

from .harness import BLKXACT, BenchError, Figure, Settings

SCENARIO = Path(__file__).parents[1] / "examples/clients/careful.toml"
CASES = 40
"""Of each sweep."""


def run(settings: Settings) -> list[Figure]:
    """Measure sweeps with one worker, and with one for each processor."""
    scenario = load(SCENARIO)
    own = Figure("prove: a case besides the tool", "ms", more_is_better=False)
    share = Figure("prove: the tool's share of the time", "%", more_is_better=True)
    rates = {
        workers: Figure(f"prove: {workers} workers", "cases/s", more_is_better=True)
        for workers in sorted({1, len(os.sched_getaffinity(0))})
    }
    speed_up = Figure("prove: speed-up with all processors", "x", more_is_better=True)
    for _ in range(settings.turns):
        seconds = {workers: _sweep(scenario, workers, own, share) for workers in rates}
        for workers, figure in rates.items():
            figure.add(BLKXACT, CASES / seconds[workers])
        speed_up.add(BLKXACT, seconds[1] / seconds[max(rates)])
    return [own, share, *rates.values(), speed_up]


def _sweep(scenario: Scenario, workers: int, own: Figure, share: Figure) -> float:
    """Return the seconds of a sweep from the first result to the last.

    What is before is the start of the workers, which a long sweep does not feel.
    """
    with Sweep(scenario, workers=workers) as sweep:
        sweep.baseline()
        results = []
        begin = 0.0
        for result in sweep.run(sweep.cases()[: CASES + workers]):
            begin = begin or time.monotonic()
            results.append(result)
        seconds = time.monotonic() - begin
    failed = [str(result.case) for result in results if result.verdict.fails]
    if failed:
        raise BenchError(f"the careful client fails: {', '.join(failed)}")
    if workers == 1:
        spent = sum(result.seconds for result in results)
        tool = sum(result.tool_seconds for result in results)
        own.add(BLKXACT, (spent - tool) / len(results) * 1000)
        share.add(BLKXACT, 100 * tool / spent)
    return seconds
