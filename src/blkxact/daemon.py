"""Builds an emulator from ``ServeOptions``, runs it until ``quit`` or a signal, shuts it down.

What the options ask for is made by ``startup.py``. Shutdown: no new command, jobs cancelled and
their bitmaps settled, images closed, sockets last, so that clients receive the events of all that.
Servers that do not answer are cut off after a timeout, or by a second signal.

QEMU's counterpart: ``storage-daemon/qemu-storage-daemon.c``, ``qemu_cleanup()``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from blkxact import PACKAGE
from blkxact.block_layer import BlockLayer
from blkxact.commands import Dispatcher
from blkxact.errors import QmpError
from blkxact.machine.machine import RunState
from blkxact.machine.options import CommandSet, ServeOptions, Step
from blkxact.qmp_server import CLOSE_GRACE_S, QmpServer
from blkxact.runtime.clock import Clock, SteppedClock, SystemClock
from blkxact.runtime.events import EventSink
from blkxact.startup import Startup
from blkxact.storage.api import Storage
from blkxact.storage.descriptors import Descriptors
from blkxact.storage.os_file import OsStorage
from blkxact.storage.paced_output import STDERR, PacedOutput

if TYPE_CHECKING:
    import random

    from blkxact.machine.qtest import QtestProtocol
    from blkxact.record.recorder import Recorder
    from blkxact.record.writer import RecordWriter
    from blkxact.runtime.test_control import TestControl
    from blkxact.runtime.trace import Trace

_OF_THE_MACHINE = ("device", "drive-device")
"""Steps that wait for ``x-exit-preconfig``."""

_log = logging.getLogger(__name__)


class Daemon:
    """One emulator in one process.

    ``on_ready`` is called with ``addresses`` when all is made and clients are served. ``record`` is
    closed at the end. ``errors`` is standard error.
    """

    _qtest: QtestProtocol | None = None
    """The connection of a test that moves the machine's clock."""
    _recorder: Recorder | None = None
    _signalled = False
    _failure: QmpError | None = None
    """Why a device could not be made later than at the start."""

    def __init__(
        self,
        options: ServeOptions,
        *,
        on_ready: Callable[[list[str]], None] = lambda _addresses: None,
        storage: Storage | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        trace: Trace | None = None,
        descriptors: Descriptors | None = None,
        record: RecordWriter | None = None,
        test_control: Callable[[BlockLayer], TestControl] | None = None,
        errors: PacedOutput | None = None,
    ) -> None:
        self._options = options
        self._errors = errors or PacedOutput(STDERR)
        self._on_ready = on_ready
        clock = clock or _system_clock(options)
        descriptors, events = descriptors or Descriptors(), EventSink(clock)
        self._quit = asyncio.Event()
        self._ended = asyncio.Event()
        """All is closed but the sockets of the monitors."""
        self._reason = "host-qmp-quit"
        self.layer = BlockLayer(
            storage or OsStorage(descriptors=descriptors),
            clock,
            events,
            rng=rng,
            default_completion_mode=options.default_completion_mode,
            trace=self._traced(trace or (_log.debug if options.verbose else None), record),
            descriptors=descriptors,
            command_set=options.command_set,
            release=options.release,
        )
        self.layer.test_control = test_control and test_control(self.layer)
        self.layer.record_path = None if record is None else record.path
        self._server = self._make_server(events, clock)
        self._startup = Startup(self.layer, self._server)
        self._connect_layer(options)

    def _make_server(self, events: EventSink, clock: Clock) -> QmpServer:
        return QmpServer(
            Dispatcher(self.layer),
            events,
            clock,
            package=PACKAGE,
            release=self.layer.release,
            points=self.layer.points,
        )

    def _traced(self, trace: Trace | None, record: RecordWriter | None) -> Trace | None:
        """Return what takes trace events, and make the recorder that gets them as well."""
        if record is None:
            return trace
        from blkxact.record.recorder import Recorder  # noqa: PLC0415 - few keep a record

        self._recorder = Recorder(record, PACKAGE)
        return self._recorder.with_trace(trace)

    def _connect_layer(self, options: ServeOptions) -> None:
        """Let the layer reach what is outside of it, as the options say."""
        if self._recorder is not None:
            self._recorder.attach(self.layer, self._server)
        self._server.on_last_left = self.layer.descriptors.remove_unused
        self.layer.on_quit = self._on_quit
        self.layer.machine.options = options.machine
        if options.paused or options.preconfig:
            self.layer.machine.state = RunState.PRELAUNCH
        if options.preconfig:
            self.layer.machine.leave_preconfig = self._leave_preconfig
        self.layer.chardevs = self._describe_chardevs
        self.layer.parse_drive = options.parse_drive
        if options.console:
            self.layer.guest.console = self._print
            self.layer.guest.errors = self._report

    def _report(self, text: str) -> None:
        """Write to standard error."""
        self._errors.write(os.fsencode(text))

    def _print(self, text: str) -> None:
        self._server.print(os.fsencode(text))

    @property
    def addresses(self) -> list[str]:
        """Where clients can connect, and how: ``QMP on unix:PATH``, ``NBD on tcp:HOST:PORT``."""
        nbd = self.layer.nbd_address
        monitors = [f"QMP on {address}" for address in self._server.addresses]
        return monitors if nbd is None else [*monitors, f"NBD on {nbd}"]

    async def run(self) -> bool:
        """Run until ``quit`` or ``on_signal``; return whether all was stored and no server cut off.

        Raises ``QmpError`` when something on the command line cannot be made.
        """
        self._errors.attach(asyncio.get_running_loop())
        try:
            if await self._start():
                self._on_ready(self.addresses)
            await self._quit.wait()
        finally:
            await self.layer.shutdown(self._options.shutdown_timeout_s)
            self._ended.set()
            await self._server.close()
            self._startup.close()
            self.layer.descriptors.close_all()
            if self._qtest is not None:
                self._qtest.close()
            if self._recorder is not None:
                self._recorder.close()
            self._errors.detach(CLOSE_GRACE_S)
        if self._failure is not None:
            raise self._failure
        return self.layer.ended_well

    def _announce_end(self) -> None:
        """Report the end, before what it brings about."""
        if self.layer.is_traced:
            from blkxact.runtime.trace import ShuttingDown  # noqa: PLC0415 - seldom

            self.layer.trace(ShuttingDown(self._reason))
        if self.layer.command_set is not CommandSet.STORAGE_DAEMON:
            self.layer.emit("SHUTDOWN", {"guest": False, "reason": self._reason})

    async def _start(self) -> bool:
        """Make everything; return False if a signal came while a client was waited for."""
        if self._options.qtest is not None:
            clock = self.layer.clock.virtual
            stepped = clock if isinstance(clock, SteppedClock) else SteppedClock()
            from blkxact.machine.qtest import connect_qtest  # noqa: PLC0415 - for tests of a machine

            self._qtest = await connect_qtest(
                self._options.qtest,
                stepped,
                self.layer.clock,
                self._report if self._options.qtest_log else lambda _: None,
            )
        steps = asyncio.ensure_future(self._startup.run(self._steps(later=False)))
        ended = asyncio.ensure_future(self._quit.wait())
        await asyncio.wait({steps, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if self._startup.is_waiting:
            steps.cancel()
        with suppress(asyncio.CancelledError):
            await steps
            await self._startup.open_monitors()
            return True
        return False

    def _steps(self, *, later: bool) -> list[Step]:
        """Return what is made at the start, or later with ``x-exit-preconfig``."""
        waiting = _OF_THE_MACHINE if self._options.preconfig else ()
        return [step for step in self._options.steps if (step.kind in waiting) is later]

    async def _leave_preconfig(self) -> None:
        """Make the devices and let the guest begin; what cannot be made ends the daemon."""
        machine = self.layer.machine
        machine.leave_preconfig = None
        try:
            await self._startup.run(self._steps(later=True))
        except QmpError as error:
            self._failure = error
            self.layer.begin_shutdown(self._options.shutdown_timeout_s)
            self._quit.set()
            raise
        if not self._options.paused:
            machine.cont()

    def sever(self) -> None:
        """Cut all connections at once, as ``kill -9`` does; the storage's owner closes the files.

        Nothing is sent or removed any more. Whoever calls this ends the loop next.
        """
        self._server.sever()
        self.layer.sever()

    def _describe_chardevs(self) -> list[dict[str, Any]]:
        """Return ChardevInfo of the monitors, the latest first."""
        return [
            {
                "label": chardev.id,
                "filename": self._startup.filename_of(chardev),
                "frontend-open": True,
            }
            for chardev in reversed(self._options.of("chardev"))
        ]

    def on_signal(self, number: int) -> None:
        """End, as a signal asks for it; a second one cuts off the servers that do not answer."""
        if self._signalled:
            self.layer.cut_off()
            return
        if self._options.console:
            _log.info("terminating on signal %d", number)
        self._signalled = True
        self._reason = "host-signal"
        self._end()

    def _on_quit(self) -> asyncio.Event:
        """End; the event is set when all is closed. QEMU answers ``quit`` then."""
        self._end()
        return self._ended

    def _end(self) -> None:
        """End what waits, which may be the start itself, and then all."""
        if not self._quit.is_set():
            self._announce_end()
        self.layer.begin_shutdown(self._options.shutdown_timeout_s)
        self._quit.set()


def _system_clock(options: ServeOptions) -> SystemClock:
    """Return the machine's clock; under qtest the guest has one that a test steps."""
    stepped = options.qtest is not None and not options.clock_runs
    return SystemClock(virtual=SteppedClock() if stepped else None)
