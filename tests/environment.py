"""The environment that nodes of a test have, where the test does not care for all of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from blkxact.block.driver_api import BlockDriver
from blkxact.block.graph import Graph
from blkxact.block.open_context import Environment
from blkxact.drivers.driver_options import driver_options
from blkxact.runtime.clock import Clock, SystemClock
from blkxact.runtime.throttle.group import ThrottleGroups
from blkxact.storage.api import Storage
from blkxact.storage.network import SystemNetwork
from blkxact.storage.os_file import OsStorage


def options_of(driver: type[BlockDriver], children: Mapping[str, Any], **members: Any) -> Any:
    """Return what the driver is opened with for these members of its BlockdevOptions."""
    wire = {name.replace("_", "-"): value for name, value in members.items()}
    return driver_options(driver, wire, dict.fromkeys(children, "child")).options


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
