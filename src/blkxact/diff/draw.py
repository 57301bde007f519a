"""What random commands are made of: a source of choices, and names from small pools.

Most names are of what is there (``World``), so that most commands do something; the others are any
of the pools, which are small, so that many meet something that is in use.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Sequence
from typing import Any, Final

from .script import ENDLESS, SLOW
from .world import World

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
EMPTY_DRIVE: Final = "cd1"
"""A CD drive that is made without a medium. It stays: QEMU would keep its medium open."""
SNAPSHOTS: Final = ("s0", "s1")
FILTERS: Final = ("f0", "f1", "f2")
"""Nodes on top of others: filters, and images within images."""
IOTHREADS: Final = ("io0", "io1")
MACHINE_SNAPSHOTS: Final = ("m0", "m1")
GROUPS: Final = ("g0", "g1")
EXPORTS: Final = ("x", "y")
EXPORT_IDS: Final = ("e0", "e1")
LIKELY: Final = 0.85
"""How often a command names what is there."""


class Draw:
    """Choices that follow from a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self.world = World()

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

    def likely(self, there: Iterable[str], *pool: str) -> str:
        """Return mostly one of those that are there, or else one of a pool."""
        known = list(there)
        return str(self.pick(*(known if known and self.chance(LIKELY) else pool)))

    def new(self, there: Container[str], *pool: str) -> str:
        """Return mostly one of a pool that is not there yet."""
        absent = [name for name in pool if name not in there]
        return self.likely(absent, *pool)

    def node(self) -> str:
        """Return the name of a node or, seldom, of a device or of nothing."""
        return self.likely(
            self.world.nodes,
            *(*WELL_KNOWN, *WELL_KNOWN, *NODES, *DEVICES, *FILTERS, "nope"),
        )

    def free_node(self) -> str:
        """Return mostly the name of a node that nothing uses."""
        free = self.world.free_nodes()
        return self.likely(free, self.node())

    def overlay(self) -> str:
        """Return mostly the name of a node that has another below it."""
        return self.likely(self.world.overlays(), self.node())

    def device(self, *pool: str) -> str:
        """Return mostly the id of a device that is there, of those in the pool if it is given."""
        pool = pool or DEVICES
        return self.likely([name for name in self.world.drives if name in pool], *pool)

    def bitmap(self, node: str = "") -> str:
        """Return the name of a bitmap, mostly of one that the node has."""
        return self.likely(self.world.bitmaps_of(node), *BITMAPS)

    def bitmap_at(self) -> tuple[str, str]:
        """Return the names of a node and of a bitmap, mostly of one that it has.

        A name that our program has made up would be another in QEMU.
        """
        given = [node for node in self.world.bitmaps if not node.startswith("#")]
        node = self.likely(given, self.node())
        return node, self.bitmap(node)

    def any_job(self, *states: str) -> str:
        """Return the id of a job, mostly of one in one of the states."""
        return self.likely(self.world.jobs_in(*states), *self.world.jobs, *JOBS, ENDLESS)

    def job(self, *pool: str) -> dict[str, Any]:
        """Return the members that every new job has; its id is one of the pool."""
        job = self.new(self.world.jobs, *(pool or JOBS))
        options = {"job-id": job, **self.maybe(auto_finalize=[False], auto_dismiss=[False])}
        if job.startswith(SLOW):
            options["speed"] = 1
        return options
