"""The model test: whole emulators, driven by chance, beside a model of what they must be.

hypothesis chooses the steps and shrinks what fails; plain runs go farther. Both are the same every
time. To repeat and to go on by hand: ``python -m tests.model --seed N --steps M``.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from . import steps
from .run import close, run
from .world import World

RUNS = 24
STEPS = 120


@pytest.mark.parametrize("seed", range(RUNS))
def test_run_from_seed_keeps_all_invariants(seed: int) -> None:
    assert run(seed, STEPS).stats


def test_runs_together_reach_what_the_model_is_about() -> None:
    """A run of refusals alone keeps every invariant, so check what was done."""
    stats: Counter[str] = Counter()
    for seed in range(1000, 1010):
        stats += run(seed, 100).stats
    wanted = {
        "bitmap abdicated",
        "bitmap kept",
        "bitmap reclaimed",
        "bitmap reloaded",
        "block-dirty-bitmap-merge",
        "blockdev-backup",
        "blockdev-del refused",
        "blockdev-snapshot-sync",
        "drive-backup",
        "guest failed",
        "job cancelled",
        "job completed",
        "job failed",
        "job-pause",
        "killed",
        "refused: abort",
        "refused: a busy bitmap",
        "restored bitmap alone",
        "restored bitmap of 2",
        "restored full of 1",
        "transaction deferred",
        "transaction grouped",
        "transaction individual",
    }
    assert not wanted - stats.keys(), f"never done: {sorted(wanted - stats.keys())}"


def test_same_seed_in_another_process_is_the_same_run() -> None:
    """Nothing depends on addresses or on the hashes of strings."""
    root = Path(__file__).parents[2]
    program = (
        "import hashlib; from tests.model.run import run;"
        "print(hashlib.sha256(chr(10).join(run(7, 60).events.log).encode()).hexdigest())"
    )
    found = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": "src"}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        found.add(done.stdout)
    assert len(found) == 1


class Emulator(RuleBasedStateMachine):
    """Each rule is a step; hypothesis chooses what the step draws."""

    world: World | None = None

    @initialize(seed=st.integers(0, 2**32), rng=st.randoms(use_true_random=False))
    def build(self, seed: int, rng: random.Random) -> None:
        self.world = World(seed, rng)

    def take(self, step: steps.Step, rng: random.Random) -> None:
        assert self.world is not None
        try:
            steps.take(self.world, step, rng)
        except BaseException:
            print("\n".join(self.world.events.log))
            raise

    def teardown(self) -> None:
        world, self.world = self.world, None
        if world is None:
            return
        try:
            if not world.failed:
                steps.finish(world, random.Random(world.seed))
        finally:
            close(world)


def _add_rules() -> None:
    """Give the machine a rule for each step; frequent steps have several."""
    for step, weight in steps.STEPS.items():
        for copy in range(max(1, weight // 8)):

            def method(self: Emulator, rng: random.Random, step: steps.Step = step) -> None:
                self.take(step, rng)

            name = f"{step.__name__}_{copy}"
            method.__name__ = name
            randoms = st.randoms(use_true_random=False)
            setattr(Emulator, name, rule(rng=randoms)(method))


_add_rules()


def test_steps_that_hypothesis_chooses_keep_all_invariants() -> None:
    run_state_machine_as_test(
        Emulator,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
