"""Builds an emulator from ``ServeOptions``, runs it until ``quit`` or a signal, shuts it down.

Things are built in QEMU's order: objects, nodes, then monitors, so a client that can connect finds
everything there. Shutdown is the reverse: no new command, jobs cancelled and their bitmaps settled,
images closed, sockets last, so that clients receive the events of all that. Servers that do not
answer are cut off after a timeout, or by a second signal.

QEMU's counterpart: ``storage-daemon/qemu-storage-daemon.c``, ``qemu_cleanup()``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any

from . import PACKAGE
from .block_layer import BlockLayer
from .clock import Clock, SteppedClock, SystemClock
from .commands import COMMANDS, Dispatcher, load_everything
from .commands.export import start_nbd_server
from .errors import QmpError
from .events import EventSink
from .machine.drives import add_drive
from .machine.machine import RunState
from .machine.qtest import connect_qtest
from .options import ChardevStdio, FdAddress, InetAddress, MonitorOptions, ServeOptions, UnixAddress
from .qapi.block_export import BlockExportOptions, NbdServerOptions
from .qapi.blockdev import BlockdevOptions
from .qapi.qom import ObjectOptions
from .qapi.validation import validate_keyval
from .qmp_server import QmpServer
from .storage.api import Storage
from .storage.descriptors import Descriptors
from .storage.os_file import OsStorage
from .storage.stdio import STDERR, write_output
from .trace import ShuttingDown, Trace, no_trace

_log = logging.getLogger(__name__)


class Daemon:
    """One emulator in one process. ``on_ready`` is called once all monitors listen."""

    def __init__(
        self,
        options: ServeOptions,
        *,
        on_ready: Callable[[], None] = lambda: None,
        storage: Storage | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._options = options
        self._on_ready = on_ready
        if clock is None:
            clock = SystemClock(virtual=SteppedClock() if options.qtest is not None else None)
        descriptors = Descriptors()
        self._storage = storage or OsStorage(descriptors=descriptors)
        self._events = EventSink(clock)
        self._quit = asyncio.Event()
        self._reason = "host-qmp-quit"
        self._signalled = False
        self.layer = BlockLayer(
            self._storage,
            clock,
            self._events,
            rng=rng or random.Random(),  # noqa: S311 - names of nodes, not secrets
            default_completion_mode=options.default_completion_mode,
            trace=trace or (_log.debug if options.verbose else no_trace),
            descriptors=descriptors,
            command_set=options.command_set,
        )
        self._connect_layer(options)
        self._server = QmpServer(
            Dispatcher(self.layer), self._events, clock, package=PACKAGE, points=self.layer.points
        )
        self._server.on_last_left = descriptors.remove_unused

    def _connect_layer(self, options: ServeOptions) -> None:
        """Let the layer reach what is outside of it, as the options say."""
        self.layer.on_quit = self._end
        self.layer.machine.options = options.machine
        if options.paused:
            self.layer.machine.state = RunState.PRELAUNCH
        self.layer.chardevs = self._describe_chardevs
        if options.console:
            self.layer.guest.console = lambda text: write_output(os.fsencode(text))
            self.layer.guest.errors = lambda text: write_output(os.fsencode(text), STDERR)

    @property
    def addresses(self) -> list[str]:
        """Where clients can connect, and how: ``QMP on unix:PATH``, ``NBD on tcp:HOST:PORT``."""
        nbd = self.layer.nbd_server.address
        monitors = [f"QMP on {address}" for address in self._server.addresses]
        return monitors if nbd is None else [*monitors, f"NBD on {nbd}"]

    async def run(self) -> bool:
        """Run until ``quit`` or a signal; return whether all was stored and no server cut off.

        Raises ``QmpError`` when something on the command line cannot be made.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        try:
            await self._build()
            self._on_ready()
            await self._quit.wait()
            self.layer.trace(ShuttingDown(self._reason))
            self.layer.emit("SHUTDOWN", {"guest": False, "reason": self._reason})
        finally:
            await self.layer.shutdown(self._options.shutdown_timeout_s)
            await self._server.close()
            self.layer.descriptors.close_all()
        return self.layer.ended_well

    def _describe_chardevs(self) -> list[dict[str, Any]]:
        """Return ChardevInfo of the monitors, the latest first."""
        return [
            {"label": chardev.id, "filename": str(chardev), "frontend-open": True}
            for chardev in reversed(self._options.chardevs.values())
        ]

    def _on_signal(self) -> None:
        if self._signalled:
            self.layer.cut_off()
            return
        self._signalled = True
        self._reason = "host-signal"
        self._end()

    def _end(self) -> None:
        """End what waits, which may be the start itself, and then all."""
        self.layer.begin_shutdown(self._options.shutdown_timeout_s)
        self._quit.set()

    async def _build(self) -> None:
        load_everything()
        options = self._options
        if options.qtest is not None:
            stepped = self.layer.clock.virtual
            assert isinstance(stepped, SteppedClock)
            await connect_qtest(options.qtest, stepped)
        for index, members in enumerate(options.objects):
            with self._located("object", index):
                await self._execute("object-add", validate_keyval(ObjectOptions, members))
        for index, members in enumerate(options.blockdevs):
            with self._located("blockdev", index):
                await self._execute("blockdev-add", validate_keyval(BlockdevOptions, members))
        await self._build_guest()
        await self._build_exports()
        for monitor in options.monitors:
            await self._open_monitor(monitor)

    async def _build_guest(self) -> None:
        """Make the drives, then the devices; those of the drives come last, as in QEMU."""
        options = self._options
        for index, drive in enumerate(options.drives):
            with self._located("drive", index):
                await add_drive(self.layer, drive)
        for index, members in enumerate(options.devices):
            with self._located("device", index):
                await self._execute("device_add", members)
        for drive in options.drives:
            if drive.device is not None:
                self.layer.devices.add({"driver": drive.device, "drive": drive.id})

    async def _build_exports(self) -> None:
        options = self._options
        for index, members in enumerate(options.nbd_servers):
            with self._located("nbd-server", index):
                start_nbd_server(self.layer, validate_keyval(NbdServerOptions, members))
        for index, members in enumerate(options.exports):
            with self._located("export", index):
                await self._execute(
                    "block-export-add", validate_keyval(BlockExportOptions, members)
                )

    @contextmanager
    def _located(self, kind: str, index: int) -> Iterator[None]:
        """Name in an error the words on the command line that it comes from, if they are known."""
        try:
            yield
        except QmpError as error:
            texts = self._options.texts.get(kind)
            if texts is None:
                raise
            raise QmpError(f"{texts[index]}: {error.desc}", error.error_class) from error

    async def _execute(self, name: str, args: Any) -> None:
        result = COMMANDS[name].handler(self.layer, args)
        if result is not None:
            await result

    async def _open_monitor(self, monitor: MonitorOptions) -> None:
        chardev = self._options.chardevs[monitor.chardev]
        if isinstance(chardev, ChardevStdio):
            self._server.open_stdio(pretty=monitor.pretty)
            return
        match chardev.address:
            case FdAddress(fd):
                await self._server.accept_socket(socket(fileno=fd), pretty=monitor.pretty)
            case UnixAddress(path) if chardev.server:
                await self._server.listen_unix(path, pretty=monitor.pretty)
            case UnixAddress(path):
                await self._server.connect_unix(path, pretty=monitor.pretty)
            case InetAddress(host, port) if chardev.server:
                await self._server.listen_tcp(host, port, pretty=monitor.pretty)
            case InetAddress(host, port):
                await self._server.connect_tcp(host, port, pretty=monitor.pretty)
