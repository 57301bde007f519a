"""The emulator of a case: a daemon in a process of its own that a fork has made.

It is a fork and no new interpreter, so it is there within milliseconds; it is a process, so that
``kill -9`` is one. A process whose daemon has ended with its case, and which has kept no descriptor
and no thread of it, serves the next case. It reports what happens to whoever runs the case before
it goes on, so that all is known even if the process is killed next.

Invariants:

* Points are counted from the begin of a call to its end.
* The guest's writes are announced before they begin, and reported as done when they are flushed;
  those between calls are reported together, as no fault strikes then.
* The process dies with the worker that made it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blkxact.block.backend import BlockBackend
from blkxact.daemon import Daemon
from blkxact.errors import QmpError, os_error
from blkxact.harness import ErrorLog, backend_at, backend_of
from blkxact.machine.options import ServeOptions
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.points import POINTS
from blkxact.storage.descriptors import Descriptors
from blkxact.storage.libc import die_with_parent

from .bitmap_work import BitmapWatch
from .faults import ACTIONS, ERRNOS, FROM_THEN_ON, Fault, Passing, Places
from .guest import Guest
from .storage import CaseStorage
from .strikes import POLL_S, SETTLE_S, Strikes, jobs_run

if TYPE_CHECKING:
    from blkxact.record.writer import RecordWriter

    from .started import StandIn

MAX_RECORD: Final = 64 << 20
"""Bytes of a record."""
MAX_PASSINGS: Final = 100_000
"""Passings of one call that are kept."""


@dataclass(frozen=True)
class Orders:
    """What a process is forked with."""

    options: Callable[[], ServeOptions]
    directory: str
    store: str
    """The tool's directory for backups."""
    disks: Mapping[str, int]
    """Name to size in bytes."""
    faults: tuple[Fault, ...]
    seed: str
    first_write: int
    """The number of the guest's next write."""
    record: str | None
    """Where to keep a record."""
    stand_in: StandIn | None = None
    """What somebody else started as the emulator."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """Disk to its image, where that tells which device is the disk's."""


def serve(channel: Connection, orders: Orders, parent: int) -> None:
    """Run daemons in this process, which is a fork, one after the other.

    It returns when one has ended that whoever runs the case has not let end. Exceptions are
    reported.
    """
    os.setsid()
    die_with_parent(signal.SIGKILL, parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if orders.stand_in is not None:
        channel = orders.stand_in.take_over(channel)
    logging.getLogger().handlers[:] = [ErrorLog(lambda text: channel.send(("bug", text)))]
    held = resources_held()
    while _serve_one(channel, orders):
        is_clean = resources_held() == held
        channel.send(("left", is_clean))
        if not is_clean:
            return
        try:
            (orders,) = channel.recv()
        except EOFError:
            return


def _serve_one(channel: Connection, orders: Orders) -> bool:
    """Run a daemon until it ends; return whether this process may serve another."""
    log = os.open(Path(orders.directory, "emulator.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    stand_in = orders.stand_in
    try:
        served = _Served(channel, orders)
        asyncio.run(served.run())
        if stand_in is not None:
            stand_in.ended(0)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        if stand_in is not None and isinstance(error, QmpError):
            stand_in.refuse(str(error))
        else:
            channel.send(("bug", traceback.format_exc()))
        return False
    return served.leaves


def resources_held() -> tuple[int, int]:
    """Return how many descriptors and threads this process has."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


class _Served:
    """A daemon, its guest, and the faults that strike it."""

    def __init__(self, channel: Connection, orders: Orders) -> None:
        self._channel = channel
        self._orders = orders
        self._call: int | None = None
        self._counts: Counter[str] = Counter()
        self._passings: list[Passing] = []
        self._places = Places(orders.directory, list(orders.disks))
        self._clients = 0
        self._lasting = 0
        """Clients that were connected before the call, as a libvirtd."""
        self.leaves = False
        """It ends as the case is over."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._clock = SystemClock()
        loses_power = any(fault.action == "power" for fault in orders.faults)
        storage = CaseStorage(Descriptors(), orders.store, loses_power=loses_power)
        self._storage = storage
        self._daemon = Daemon(
            orders.options(),
            on_ready=self._on_ready,
            storage=storage,
            descriptors=storage.descriptors,
            rng=random.Random(orders.seed),  # noqa: S311 - names of nodes
            record=None if orders.record is None else _record_writer(orders.record),
        )
        self._layer = self._daemon.layer
        self._backends: dict[str, BlockBackend] = {}
        """The disks' devices, where their images tell which they are."""
        self._guest = Guest(
            self._backend_of,
            channel.send,
            self._clock,
            disks=orders.disks,
            seed=orders.seed,
            first_write=orders.first_write,
        )
        self._strikes = self._make_strikes(storage)
        self._listen()

    def _make_strikes(self, storage: CaseStorage) -> Strikes:
        return Strikes(
            self._layer,
            storage,
            self._channel,
            guest=self._guest,
            clock=self._clock,
            seed=self._orders.seed,
            start=self._start,
        )

    def _listen(self) -> None:
        BitmapWatch(self._layer, lambda work: self._channel.send(("bitmap", work)))
        for name in (*ACTIONS, "monitor.disconnected"):
            if name in POINTS:
                self._layer.points.listen(name, self._pass)

    async def run(self) -> None:
        """Serve clients and whoever runs the case."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._ordered)
        loop.add_signal_handler(signal.SIGTERM, self._daemon.on_signal, signal.SIGTERM)
        if self._orders.stand_in is not None:
            loop.add_reader(self._orders.stand_in.channel.fileno(), self._signalled)
        try:
            await self._daemon.run()
        finally:
            self._storage.close()

    def _on_ready(self, _: list[str]) -> None:
        """Find the disks before anybody changes what is in their devices."""
        for disk, path in self._orders.images.items():
            backend = self._backends[disk] = backend_at(self._layer, path)
            assert backend.node is not None
            self._places.rename(backend.node.node_name, disk)
        self._channel.send(("ready",))

    def _backend_of(self, disk: str) -> BlockBackend:
        return self._backends.get(disk) or backend_of(self._layer, disk)

    def _signalled(self) -> None:
        """Do what whoever started the emulator wants of the program that stands in for it."""
        assert self._orders.stand_in is not None
        number = self._orders.stand_in.channel.recv(1)
        if not number:
            self._channel.send(("killed",))
            os.kill(os.getpid(), signal.SIGKILL)
        self._daemon.on_signal(number[0])

    # Orders

    def _ordered(self) -> None:
        try:
            name, *args = self._channel.recv()
        except EOFError:
            os.kill(os.getpid(), signal.SIGKILL)
        order = getattr(self, f"_do_{name}")
        self._start(self._answer(order, args))

    async def _answer(self, order: Callable[..., Awaitable[Any]], args: list[Any]) -> None:
        try:
            reply = await order(*args)
        except (OSError, QmpError):
            if not self._layer.shutting_down:
                raise
            return  # the disks are closed: that the process ends is the answer
        self._channel.send(("reply", reply))

    async def _do_begin(self, call: int) -> None:
        """Begin a call."""
        self._call = call
        self._lasting = self._clients
        self._counts.clear()
        self._places.begin_call()
        self._passings = []
        self._strikes.begin_call()

    async def _do_end(self) -> list[Passing]:
        """End the call when its jobs have ended and its connections are closed."""
        self._strikes.end_call()
        end = self._clock.monotonic() + SETTLE_S
        while self._is_busy() and self._clock.monotonic() < end:
            await self._clock.sleep(POLL_S)
        self._call = None
        return self._passings

    async def _do_state(self) -> dict[str, int]:
        counts = self._layer.statistics()
        names = ("nodes", "jobs", "bitmaps", "busy_bitmaps", "exports")
        return {name: getattr(counts, name) for name in names}

    async def _do_modules(self) -> list[str]:
        return [name for name, module in sys.modules.items() if module is not None]

    async def _do_write(self, seed: str, each: int) -> list[tuple[Any, ...]]:
        """Let the guest write, between calls; return what it reports."""
        reports: list[tuple[Any, ...]] = []
        await self._guest.write(seed, each, reports.append)
        return reports

    async def _do_write_and_begin(self, seed: str, each: int, call: int) -> list[tuple[Any, ...]]:
        reports = await self._do_write(seed, each)
        await self._do_begin(call)
        return reports

    async def _do_leave(self) -> None:
        self.leaves = True
        self._layer.on_quit()

    async def _do_observe(self, pages: Mapping[str, list[int]]) -> dict[str, dict[int, int]]:
        return await self._guest.observe(pages)

    async def _do_lose_power(self) -> list[str]:
        return self._strikes.lose_power()

    def _is_busy(self) -> bool:
        return jobs_run(self._layer) or self._layer.lock.locked() or self._clients > self._lasting

    # Points

    def _pass(self, name: str, facts: Mapping[str, Any]) -> Awaitable[None] | None:
        if name in ("monitor.connected", "monitor.disconnected"):
            self._clients += 1 if name == "monitor.connected" else -1
        if name == "monitor.received":
            self._strikes.received(facts["command"])
        if self._call is None or name not in ACTIONS:
            return None
        address = self._places.address(name, facts)
        self._counts[address] += 1
        passing = Passing(self._call, address, self._counts[address])
        if len(self._passings) < MAX_PASSINGS:
            self._passings.append(passing)
        if self._strikes.fails_as_full(passing):
            raise os_error(ERRNOS["ENOSPC"])
        for fault in self._orders.faults:
            if _strikes(fault, passing):
                return self._strikes.strike(fault, facts)
        return None

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _record_writer(path: str) -> RecordWriter:
    from blkxact.record.writer import RecordWriter  # noqa: PLC0415 - few cases keep one

    return RecordWriter(path, MAX_RECORD)


def _strikes(fault: Fault, passing: Passing) -> bool:
    if (fault.passing.call, fault.passing.address) != (passing.call, passing.address):
        return False
    if fault.action.endswith(FROM_THEN_ON):
        return passing.nth >= fault.passing.nth
    return passing.nth == fault.passing.nth
