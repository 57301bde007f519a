"""What a fault does to the emulator where it strikes.

A strike is reported before anything happens, so that it is known even if the process ends by it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from multiprocessing.connection import Connection
from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.enums import JobStatus
from blkxact.errors import QmpError, os_error
from blkxact.runtime.clock import Clock

from .faults import ERRNOS, FROM_THEN_ON, Fault, Passing
from .guest import Guest
from .storage import CaseStorage, hold_lock

SETTLE_S: Final = 5.0
"""Seconds that jobs have to end once a call is over."""
LATE_S: Final = 0.2
"""Seconds that an event is late when all jobs are over."""
STALL_S: Final = 10.0
"""Seconds after which an NBD connection that stalled is cut, unless it is closed before."""
POLL_S: Final = 0.002
_BUSY: Final = frozenset(
    {JobStatus.CREATED, JobStatus.RUNNING, JobStatus.WAITING, JobStatus.ABORTING}
)
_CLOSE_CONNECTIONS: Final = frozenset(
    {"nbd-server-stop", "nbd-server-remove", "block-export-del", "quit"}
)
_NEW_DATA: Final = frozenset({"storage.pwrite", "storage.write_zeroes", "storage.truncate"})


def jobs_run(layer: BlockLayer) -> bool:
    """Return whether any job has not ended."""
    return any(job.status in _BUSY for job in layer.jobs.values())


class Strikes:
    """The faults of one emulator. ``start`` runs a coroutine beside all else."""

    def __init__(
        self,
        layer: BlockLayer,
        storage: CaseStorage,
        channel: Connection,
        *,
        guest: Guest,
        clock: Clock,
        seed: str,
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._layer = layer
        self._storage = storage
        self._channel = channel
        self._guest = guest
        self._clock = clock
        self._seed = seed
        self._start = start
        self._full = False
        """The file system of the backups has no more room."""
        self._locks: list[int] = []
        """Descriptors of the other program."""
        self._stall_over = asyncio.Event()

    def begin_call(self) -> None:
        """Begin a call of the tool."""
        self._stall_over.clear()

    def end_call(self) -> None:
        """End what lasts as long as the call."""
        self._full = False
        while self._locks:
            os.close(self._locks.pop())
        self._stall_over.set()

    def received(self, command: str) -> None:
        """Note a command: one that closes NBD connections does not wait for replies to be sent."""
        if command in _CLOSE_CONNECTIONS:
            self._stall_over.set()

    def fails_as_full(self, passing: Passing) -> bool:
        """Return whether the request finds no room on the file system of the backups."""
        return self._full and passing.point in _NEW_DATA and passing.place[0].startswith("file-")

    def strike(self, fault: Fault, facts: Mapping[str, Any]) -> Awaitable[None] | None:
        """Let a fault happen: raise what it raises, or return what has to be awaited."""
        action = fault.action
        if action == "lock" and not self._lock(facts["path"]):
            return None  # the emulator has it itself: nobody else can
        self._channel.send(("strike", fault, self._clock.realtime_us()))
        error = action.removesuffix(FROM_THEN_ON)
        if error in ERRNOS:
            self._full |= action == "ENOSPC" + FROM_THEN_ON
            raise os_error(ERRNOS[error])
        if action == "cut":
            raise ConnectionResetError
        if action == "refuse":
            raise QmpError("Cannot allocate memory")
        return _DOES[action](self, fault)

    def lose_power(self) -> list[str]:
        """Lose what was not flushed; return the paths of the files that lost something."""
        return self._storage.lose_power(random.Random(f"{self._seed}/power"))  # noqa: S311

    def _lock(self, path: str) -> bool:
        found = hold_lock(path)
        if found is not None:
            self._locks.append(found)
        return found is not None

    def _locked(self, fault: Fault) -> None:
        """Do nothing more: the lock is held."""

    def _kill(self, fault: Fault) -> None:
        del fault
        os.kill(os.getpid(), signal.SIGKILL)

    def _power(self, fault: Fault) -> None:
        del fault
        self._channel.send(("power", self.lose_power()))
        self._channel.recv()
        os.kill(os.getpid(), signal.SIGKILL)

    def _quit(self, fault: Fault) -> None:
        del fault
        os.kill(os.getpid(), signal.SIGTERM)

    def _kill_client(self, fault: Fault) -> None:
        del fault
        self._channel.send(("kill-client",))
        self._channel.recv()  # nothing else is under way: whoever runs the case watches the tool

    def _guest_writes(self, fault: Fault) -> Coroutine[Any, Any, None] | None:
        work = self._guest.write_at_a_point()
        if fault.passing.point.startswith("monitor."):
            return work
        self._start(work)  # what stands at the point may hold what the write needs
        return None

    async def _late(self, fault: Fault) -> None:
        end = self._clock.monotonic() + SETTLE_S
        while self._clock.monotonic() < end and jobs_run(self._layer):
            await self._clock.sleep(POLL_S)
        if fault.passing.point == "monitor.event":
            await self._clock.sleep(LATE_S)

    async def _stall(self, fault: Fault) -> None:
        del fault
        limit = self._clock.call_later(STALL_S, self._stall_over.set)
        await self._stall_over.wait()  # and uses no processor: the tool may hang meanwhile
        limit.cancel()
        raise ConnectionResetError


_DOES: Final[Mapping[str, Callable[[Strikes, Fault], Awaitable[None] | None]]] = {
    "kill": Strikes._kill,  # noqa: SLF001 - the table of this class
    "power": Strikes._power,  # noqa: SLF001
    "quit": Strikes._quit,  # noqa: SLF001
    "kill-client": Strikes._kill_client,  # noqa: SLF001
    "write": Strikes._guest_writes,  # noqa: SLF001
    "late": Strikes._late,  # noqa: SLF001
    "stall": Strikes._stall,  # noqa: SLF001
    "lock": Strikes._locked,  # noqa: SLF001
}
