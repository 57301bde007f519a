"""Random mirrors; ``model.py`` has what must hold."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from blkxact.testing.loop import run_simulated

from .model import run

ROUNDS = 12


@pytest.mark.parametrize("faults", [False, True], ids=["healthy", "faulty"])
def test_mirror_that_ends_well_has_lost_no_write(sim_seed: int, faults: bool) -> None:
    stats: Counter[str] = Counter()
    for seed in range(sim_seed, sim_seed + ROUNDS):
        stats += run_simulated(partial(run, seed=seed, faults=faults), seed)
    assert stats["compared"] > ROUNDS // 4
    assert stats["block_job_completed and pivoted"]
