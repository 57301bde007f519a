"""What random commands are made of: a source of choices, and names from small pools.

The pools are small so that most commands meet something that is there, and many meet something
that is in use.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from .script import SLOW

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SIZE: Final = 4 * MIB
"""Of each disk, in bytes."""

IMAGES: Final = (
    "create -q -f qcow2 a.qcow2 4M",
    "create -q -f qcow2 -o cluster_size=16k b.qcow2 4M",
    "create -q -f qcow2 base.qcow2 4M",
    "create -q -f qcow2 -F qcow2 -b base.qcow2 over.qcow2",
    "create -q -f raw c.raw 4M",
    "create -q -f qcow2 t.qcow2 4M",
    "create -q -f raw u.raw 4M",
)
FILES: Final = {
    name.partition(".")[0]: name
    for line in IMAGES
    for name in [next(word for word in reversed(line.split()) if "." in word)]
} | {f"new{number}": f"new{number}.qcow2" for number in range(3)}
"""The file of each node; those of ``new`` nodes are made by snapshots, mirrors and backups."""
NODES: Final = ("a", "b", "over", "c", "t", "u", "n", "base", "new0", "new1", "new2")
WELL_KNOWN: Final = NODES[:7]
"""Those that are named more often."""
BITMAPS: Final = ("b0", "b1", "b2")
SHORT_JOBS: Final = ("j0", "j1", "j2")
JOBS: Final = (*SHORT_JOBS, f"{SLOW}0")
DISKS: Final = ("d0", "d1")
DEVICES: Final = (*DISKS, "cd")
SNAPSHOTS: Final = ("s0", "s1")
FILTERS: Final = ("f0", "f1", "f2")
"""Nodes on top of others: filters, and images within images."""
IOTHREADS: Final = ("io0", "io1")
MACHINE_SNAPSHOTS: Final = ("m0", "m1")
GROUPS: Final = ("g0", "g1")
EXPORTS: Final = ("x", "y")


class Draw:
    """Choices that follow from a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - reproducible, not secret

    def pick(self, *choices: Any) -> Any:
        """Return one of the choices."""
        return self._rng.choice(choices)

    def sample(self, pool: Sequence[str], count: int) -> list[str]:
        """Return that many different ones of a pool."""
        return self._rng.sample(pool, count)

    def weighted(self, pool: Sequence[Any], weights: Sequence[int]) -> Any:
        """Return one of a pool, the heavier the more often."""
        return self._rng.choices(pool, weights)[0]

    def below(self, limit: int, step: int = 1) -> int:
        """Return a multiple of ``step`` below ``limit``."""
        return self._rng.randrange(0, limit, step)

    def chance(self, probability: float) -> bool:
        """Return True that often."""
        return self._rng.random() < probability

    def maybe(self, **members: Sequence[Any]) -> dict[str, Any]:
        """Return some of the members, each with one of its values."""
        return {
            name.replace("_", "-"): self.pick(*values)
            for name, values in members.items()
            if self.chance(0.4)
        }

    def node(self) -> str:
        """Return the name of a node or, seldom, of a device or of nothing."""
        return str(self.pick(*WELL_KNOWN, *WELL_KNOWN, *NODES, *DEVICES, *FILTERS, "nope"))

    def bitmap(self) -> str:
        """Return the name of a bitmap."""
        return str(self.pick(*BITMAPS))

    def job(self, *pool: str) -> dict[str, Any]:
        """Return the members that every job has; its id is one of the pool."""
        job = self.pick(*(pool or JOBS))
        options = {"job-id": job, **self.maybe(auto_finalize=[False], auto_dismiss=[False])}
        if job.startswith(SLOW):
            options["speed"] = 1
        return options
