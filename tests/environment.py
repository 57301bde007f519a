"""The environment that nodes of a test have, where the test does not care for all of it."""

from __future__ import annotations

import random
from typing import Any

from blkxact.block.graph import Graph
from blkxact.block.open_context import Environment
from blkxact.clock import Clock, SystemClock
from blkxact.storage.api import Storage
from blkxact.storage.network import SystemNetwork
from blkxact.storage.os_file import OsStorage
from blkxact.throttle.group import ThrottleGroups


def environment(
    storage: Storage | None = None,
    clock: Clock | None = None,
    rng: random.Random | None = None,
    *,
    graph: Graph | None = None,
    **more: Any,
) -> Environment:
    clock = clock or SystemClock()
    rng = rng or random.Random(0)
    more.setdefault("network", SystemNetwork(clock))
    return Environment(
        graph or Graph(rng), storage or OsStorage(), clock, rng, ThrottleGroups(clock), **more
    )
