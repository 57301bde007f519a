"""The emulator of a case: a daemon in a process of its own that a fork has made.

It is a fork and no new interpreter, so it is there within milliseconds; it is a process, so that
``kill -9`` is one. It reports what happens to whoever runs the case before it goes on, so that all
is known even if the process is killed next.

Invariants:

* Points are counted from the begin of a call to its end.
* The guest's writes are announced before they begin, and reported as done when they are flushed.
* The process dies with the worker that made it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission
from blkxact.daemon import Daemon
from blkxact.enums import JobStatus
from blkxact.errors import QmpError, os_error
from blkxact.machine.options import ServeOptions
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.points import POINTS
from blkxact.storage.libc import die_with_parent

from .faults import ACTIONS, ERRNOS, FROM_THEN_ON, Fault, Passing, Places
from .history import PAGE, Write, number_in, random_writes

SETTLE_S: Final = 5.0
"""Seconds that jobs have to end once a call is over."""
POLL_S: Final = 0.002
WRITES_AT_A_POINT: Final = 2
"""Writes of each disk where the guest writes as a fault."""
MAX_PASSINGS: Final = 100_000
"""Passings of one call that are kept."""

_BUSY: Final = frozenset(
    {JobStatus.CREATED, JobStatus.RUNNING, JobStatus.WAITING, JobStatus.ABORTING}
)


@dataclass(frozen=True)
class Orders:
    """What a process is forked with."""

    options: Callable[[], ServeOptions]
    directory: str
    disks: Mapping[str, int]
    """Name to size in bytes."""
    faults: tuple[Fault, ...]
    seed: str
    first_write: int
    """The number of the guest's next write."""


def serve(channel: Connection, orders: Orders) -> None:
    """Run the daemon in this process, which is a fork, until it ends; exceptions are reported."""
    os.setsid()
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = os.open(Path(orders.directory, "emulator.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.getLogger().handlers[:] = [_Bugs(channel)]
    try:
        asyncio.run(_Served(channel, orders).run())
    except Exception:  # noqa: BLE001 - whatever it is, it is a finding
        channel.send(("bug", traceback.format_exc()))


class _Bugs(logging.Handler):
    """Reports errors in the log: as such the emulator logs only bugs of its own."""

    def __init__(self, channel: Connection) -> None:
        super().__init__(logging.ERROR)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Report one."""
        self._channel.send(("bug", self.format(record)))


class _Served:
    """A daemon, its guest, and the faults that strike it."""

    def __init__(self, channel: Connection, orders: Orders) -> None:
        self._channel = channel
        self._orders = orders
        self._call: int | None = None
        self._counts: Counter[str] = Counter()
        self._passings: list[Passing] = []
        self._places = Places(orders.directory, list(orders.disks))
        self._full = False
        """The file system of the backups has no more room."""
        self._clients = 0
        self._next_write = orders.first_write
        self._rounds = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._backends: dict[str, BlockBackend] = {}
        self._clock = SystemClock()
        self._daemon = Daemon(
            orders.options(),
            on_ready=lambda _: channel.send(("ready",)),
            rng=random.Random(orders.seed),  # noqa: S311 - names of nodes
        )
        self._layer = self._daemon.layer
        for name in (*ACTIONS, "monitor.disconnected"):
            if name in POINTS:
                self._layer.points.listen(name, self._pass)

    async def run(self) -> None:
        """Serve clients and whoever runs the case."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._ordered)
        loop.add_signal_handler(signal.SIGTERM, self._daemon.on_signal, signal.SIGTERM)
        await self._daemon.run()

    # Orders

    def _ordered(self) -> None:
        try:
            name, *args = self._channel.recv()
        except EOFError:
            os.kill(os.getpid(), signal.SIGKILL)
        order = getattr(self, f"_do_{name}")
        self._start(self._answer(order, args))

    async def _answer(self, order: Callable[..., Awaitable[Any]], args: list[Any]) -> None:
        self._channel.send(("reply", await order(*args)))

    async def _do_begin(self, call: int) -> None:
        self._call = call
        self._counts.clear()
        self._places.begin_call()
        self._passings = []
        self._full = False

    async def _do_end(self) -> list[Passing]:
        """End the call when its jobs have ended and its connections are closed."""
        end = self._clock.monotonic() + SETTLE_S
        while self._is_busy() and self._clock.monotonic() < end:
            await self._clock.sleep(POLL_S)
        self._call = None
        self._full = False
        return self._passings

    async def _do_state(self) -> dict[str, int]:
        counts = self._layer.statistics()
        names = ("nodes", "jobs", "bitmaps", "busy_bitmaps", "exports")
        return {name: getattr(counts, name) for name in names}

    async def _do_modules(self) -> list[str]:
        return [name for name, module in sys.modules.items() if module is not None]

    async def _do_write(self, seed: str, each: int) -> None:
        await self._write(seed, each)

    async def _do_observe(self, pages: Mapping[str, list[int]]) -> dict[str, dict[int, int]]:
        """Return from which writes these pages of the disks are."""
        found: dict[str, dict[int, int]] = {}
        for disk, numbers in pages.items():
            backend = self._backend(disk)
            found[disk] = {}
            for page in numbers:
                data = bytes(await backend.pread(page * PAGE, PAGE))
                found[disk][page] = number_in(data, page) if any(data) else 0
        return found

    def _is_busy(self) -> bool:
        jobs = any(job.status in _BUSY for job in self._layer.jobs.values())
        return jobs or self._layer.lock.locked() or self._clients > 0

    # The guest

    def _backend(self, disk: str) -> BlockBackend:
        """Return the way to the disk: its device, or one of our own where there are no devices."""
        if disk not in self._backends:
            found = self._layer.find_backend(f"device-{disk}")
            if found is None:
                found = BlockBackend(
                    self._layer.graph, perm=Permission.WRITE | Permission.CONSISTENT_READ
                )
                found.description = "the guest"
                found.insert(self._layer.find_node(disk))
                self._layer.backends.append(found)  # closed with the others
            self._backends[disk] = found
        return self._backends[disk]

    async def _write(self, seed: str, each: int) -> None:
        """Let the guest write at random, and flush after each: the order of the writes is known."""
        source = random.Random(seed)  # noqa: S311 - seeded
        writes = list(random_writes(source, self._next_write, dict(self._orders.disks), each))
        self._next_write += len(writes)
        for write in writes:
            await self._write_one(write)

    async def _write_one(self, write: Write) -> None:
        backend = self._backend(write.disk)
        self._channel.send(("write-begin", write, self._clock.monotonic()))
        try:
            await backend.pwrite(write.page * PAGE, write.data())
            await backend.flush()
        except OSError:
            return  # either may be there, now and later
        self._channel.send(("write-end", write.number, self._clock.monotonic()))

    # Points

    def _pass(self, name: str, facts: Mapping[str, Any]) -> Awaitable[None] | None:
        if name in ("monitor.connected", "monitor.disconnected"):
            self._clients += 1 if name == "monitor.connected" else -1
        if self._call is None or name not in ACTIONS:
            return None
        address = self._places.address(name, facts)
        self._counts[address] += 1
        passing = Passing(self._call, address, self._counts[address])
        if len(self._passings) < MAX_PASSINGS:
            self._passings.append(passing)
        if self._full and self._is_new_data(passing):
            raise os_error(ERRNOS["ENOSPC"])
        for fault in self._orders.faults:
            if _strikes(fault, passing):
                return self._strike(fault)
        return None

    @staticmethod
    def _is_new_data(passing: Passing) -> bool:
        kind = passing.point in ("storage.pwrite", "storage.write_zeroes", "storage.truncate")
        return kind and passing.place[0].startswith("file-")

    def _strike(self, fault: Fault) -> Awaitable[None] | None:
        self._channel.send(("strike", fault))
        action = fault.action
        error = action.removesuffix(FROM_THEN_ON)
        if error in ERRNOS:
            self._full |= action == "ENOSPC" + FROM_THEN_ON
            raise os_error(ERRNOS[error])
        if action == "cut":
            raise ConnectionResetError
        if action == "refuse":
            raise QmpError("Cannot allocate memory")
        return _DOES[action](self, fault)

    def _kill(self, fault: Fault) -> None:
        del fault
        os.kill(os.getpid(), signal.SIGKILL)

    def _quit(self, fault: Fault) -> None:
        del fault
        os.kill(os.getpid(), signal.SIGTERM)

    def _kill_client(self, fault: Fault) -> None:
        del fault
        self._channel.send(("kill-client",))
        self._channel.recv()  # nothing else is under way: whoever runs the case watches the tool

    def _guest_writes(self, fault: Fault) -> Coroutine[Any, Any, None] | None:
        self._rounds += 1
        work = self._write(f"{self._orders.seed}/at/{self._rounds}", WRITES_AT_A_POINT)
        if fault.passing.point.startswith("monitor."):
            return work
        self._start(work)  # what stands at the point may hold what the write needs
        return None

    async def _reply_late(self, fault: Fault) -> None:
        del fault
        end = self._clock.monotonic() + SETTLE_S
        while self._clock.monotonic() < end and any(
            job.status in _BUSY for job in self._layer.jobs.values()
        ):
            await self._clock.sleep(POLL_S)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_DOES: Final[Mapping[str, Callable[[_Served, Fault], Awaitable[None] | None]]] = {
    "kill": _Served._kill,  # noqa: SLF001 - the table of this class
    "quit": _Served._quit,  # noqa: SLF001
    "kill-client": _Served._kill_client,  # noqa: SLF001
    "write": _Served._guest_writes,  # noqa: SLF001
    "late": _Served._reply_late,  # noqa: SLF001
}


def _strikes(fault: Fault, passing: Passing) -> bool:
    if (fault.passing.call, fault.passing.address) != (passing.call, passing.address):
        return False
    if fault.action.endswith(FROM_THEN_ON):
        return passing.nth >= fault.passing.nth
    return passing.nth == fault.passing.nth
