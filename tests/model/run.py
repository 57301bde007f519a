"""Runs of chosen length from a seed."""

from __future__ import annotations

import random

from blkxact.testing.loop import end_loop

from .steps import STEPS, finish, take
from .world import World


def run(seed: int, steps: int, *, verbose: bool = False) -> World:
    """Take so many steps in a world made from the seed; raises what breaks an invariant."""
    rng = random.Random(seed)
    world = World(seed, rng)
    kinds, weights = list(STEPS), list(STEPS.values())
    try:
        for _ in range(steps):
            take(world, rng.choices(kinds, weights)[0], rng)
        finish(world, rng)
    except BaseException as error:
        error.add_note(f"python -m tests.model --seed {seed} --steps {steps}")
        if verbose:
            print("\n".join(world.events.log))
        raise
    finally:
        close(world)
    return world


def close(world: World) -> None:
    """Close the loop; what is left of a run that was given up ends with it."""
    end_loop(world.loop)
