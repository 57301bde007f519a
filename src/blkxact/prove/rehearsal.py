"""A process that runs cases: what it does once before the first, and keeps from one to the next.

Emulators and Python tools are forks of that process. What they would load, and what an emulator
works out when it does something for the first time (the models of commands, the points, the
options), is loaded and worked out here.

Emulators that end with their cases leave a process, which is kept for the next one.

Invariant: it changes no verdict, only how long a case takes.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from blkxact.daemon import Daemon
from blkxact.harness import backend_of
from blkxact.storage.descriptors import Descriptors

from .case import run_case
from .guest import Guest
from .history import History
from .process import Processes
from .results import Case, Result
from .scenario import Scenario
from .setup import emulator_options, make_disks
from .storage import CaseStorage

_NOT_LOADED: Final = ("__", "pytest", "_pytest")
"""Modules whose names begin so are of whoever runs a sweep."""
_PROCESSES: Final = Processes()


def prepare(scenario: Scenario, modules: Iterable[str], scratch: Path) -> None:
    """Load what emulators (``modules``) and the tool need, and start an emulator once.

    None is started where somebody else does it, as only he knows with which options. What is
    written is below ``scratch``, which is removed by others if this process is killed.

    What is there afterwards is left out of garbage collections (``gc.freeze``): a collection in a
    fork would copy all of it.
    """
    load_modules((*modules, *scenario.client.preload))
    if not scenario.emulator.start:
        with tempfile.TemporaryDirectory(dir=scratch) as path:
            directory = Path(path)
            first_write = 1 + make_disks(scenario, directory, History())
            asyncio.run(_rehearse(scenario, directory, first_write))
    gc.collect()
    gc.freeze()


def run_prepared(scenario: Scenario, case: Case, scratch: Path, **more: Any) -> Result:
    """Run a case (see ``case.run_case``) with the process that the last one has left."""
    return run_case(scenario, case, scratch, processes=_PROCESSES, **more)


def end_spare() -> None:
    """End the process that is kept; it would end with this process."""
    _PROCESSES.close()


def load_modules(names: Iterable[str]) -> None:
    """Load modules; those that cannot be loaded are left to whoever needs them."""
    for name in names:
        if name not in sys.modules and not name.startswith(_NOT_LOADED):
            with suppress(Exception):
                importlib.import_module(name)


async def _rehearse(scenario: Scenario, directory: Path, first_write: int) -> None:
    """Start an emulator, let its guest write, and end it."""
    storage = CaseStorage(Descriptors(), str(directory), loses_power=False)
    ready = asyncio.Event()
    daemon = Daemon(
        emulator_options(scenario, directory),
        on_ready=lambda _: ready.set(),
        storage=storage,
        descriptors=storage.descriptors,
    )
    layer = daemon.layer
    disks = {disk.name: disk.size for disk in scenario.disk}
    guest = Guest(
        partial(backend_of, layer),
        lambda _: None,
        layer.clock,
        disks=disks,
        seed="0",
        first_write=first_write,
    )
    running = asyncio.ensure_future(daemon.run())
    running.add_done_callback(lambda _: ready.set())  # if it cannot be started
    await ready.wait()
    await guest.write("0", 1)
    layer.on_quit()
    await running
