"""The parts of one emulator: each is loaded and made when it is first used.

An emulator that has no node yet has none of them but the machine. So a start is short, and a client
that only asks for the version does not pay for the block layer.

Invariant: all parts that hold nodes need ``graph``; while there is none, there is nothing to
release.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from blkxact.enums import ActionCompletionMode
from blkxact.machine.machine import Machine
from blkxact.machine.options import CommandSet, DriveOptions, no_drives
from blkxact.runtime.release import DEFAULT_RELEASE, Release
from blkxact.storage.descriptors import Descriptors

if TYPE_CHECKING:
    import random
    import ssl

    from blkxact.block.backend import BlockBackend
    from blkxact.block.graph import Graph
    from blkxact.block.guest import Guest
    from blkxact.block.open_context import Environment
    from blkxact.blockdev.blockdev import Blockdev
    from blkxact.export.exports import Exports
    from blkxact.export.nbd_server import NbdServer
    from blkxact.job.job import Job
    from blkxact.job.txn import JobTxn
    from blkxact.machine.devices import Devices
    from blkxact.machine.objects import Object
    from blkxact.runtime.clock import Clock
    from blkxact.runtime.events import EventSink
    from blkxact.runtime.points import Points
    from blkxact.runtime.test_control import TestControl
    from blkxact.runtime.throttle.group import ThrottleGroups
    from blkxact.runtime.trace import Trace
    from blkxact.storage.api import Network, Storage


class Parts:
    """What ``BlockLayer`` is made of. Everything from outside is passed in."""

    record_path: str | None = None
    """The file that ``--record`` names; absolute."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        events: EventSink,
        *,
        rng: random.Random | None = None,
        default_completion_mode: ActionCompletionMode = ActionCompletionMode.INDIVIDUAL,
        trace: Trace | None = None,
        network: Network | None = None,
        descriptors: Descriptors | None = None,
        command_set: CommandSet = CommandSet.ALL,
        release: Release = DEFAULT_RELEASE,
    ) -> None:
        self.storage = storage
        self.clock = clock
        self.events = events
        self._trace = trace
        self._rng = rng
        self._network = network
        self.default_completion_mode = default_completion_mode
        self.objects: dict[str, Object] = {}
        self.backends: list[BlockBackend] = []
        self.machine = Machine(self.emit)
        self.command_set = command_set
        """The commands that clients find; see ``commands.commands_of``."""
        self.release = release
        """The QEMU that this is."""
        self.descriptors = descriptors or Descriptors()
        """File descriptors that clients have passed in."""
        self.chardevs: Callable[[], list[dict[str, Any]]] = list
        self.parse_drive: Callable[[str], DriveOptions] = no_drives
        """Returns ChardevInfo of the monitors."""
        self.test_control: TestControl | None = None
        """What a daemon with ``--testing`` lets clients do."""
        self.on_quit: Callable[[], asyncio.Event | None] = lambda: None
        """What ``quit`` asks the process to do; it waits for the event that is returned."""
        self._begin()

    def _begin(self) -> None:
        """Begin with no job and no transaction."""
        self.lock, self._endings = asyncio.Lock(), asyncio.Lock()
        self.jobs: dict[str, Job] = {}
        self.transactions: list[JobTxn] = []
        self._openings: list[asyncio.Future[None]] = []
        """One for each node that is being opened."""
        self._completed: list[JobTxn] = []
        """Transactions that are over, but whose nodes are still being closed."""
        self.cut_off_nodes: list[str] = []
        """The nodes whose servers were cut off at the end, as they did not answer."""

    def has(self, part: str) -> bool:
        """Return whether a part has been made."""
        return part in self.__dict__

    @property
    def points(self) -> Points:
        """The places where something may fail or wait."""
        return self.storage.points

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to every session."""
        self.points.hit("event.emit", event=event, data=data)
        self.events.emit(event, data)

    @property
    def is_traced(self) -> bool:
        """Whether somebody is given what happens."""
        return self._trace is not None

    @cached_property
    def trace(self) -> Trace:
        """Is given what happens, step by step."""
        from blkxact.runtime.trace import no_trace  # noqa: PLC0415

        return self._trace or no_trace

    @cached_property
    def rng(self) -> random.Random:
        """Makes the names of nodes that have none; no secrets."""
        import random  # noqa: PLC0415

        return self._rng or random.Random()  # noqa: S311

    @cached_property
    def graph(self) -> Graph:
        """The nodes."""
        from blkxact.block.graph import Graph  # noqa: PLC0415

        return Graph(self.rng, self.points)

    @cached_property
    def throttle_groups(self) -> ThrottleGroups:
        """The groups whose members share their limits."""
        from blkxact.runtime.throttle.group import ThrottleGroups  # noqa: PLC0415

        return ThrottleGroups(self.clock.virtual)

    @cached_property
    def blockdev(self) -> Blockdev:
        """Opens and closes nodes."""
        from blkxact.blockdev.blockdev import Blockdev  # noqa: PLC0415

        return Blockdev(self._environment())

    def _environment(self) -> Environment:
        """Return what drivers are opened with."""
        from blkxact.block.open_context import Environment  # noqa: PLC0415
        from blkxact.storage.network import SystemNetwork  # noqa: PLC0415

        return Environment(
            self.graph,
            self.storage,
            self.clock,
            self.rng,
            self.throttle_groups,
            self._network or SystemNetwork(self.clock, self.descriptors),
            tls_client=self._tls_client,
            emit=self.emit,
            release=self.release,
        )

    def _tls_client(self, name: str) -> ssl.SSLContext:
        """Return what encrypts with the credentials of that id. Raises ``QmpError``."""
        from blkxact.machine.objects import tls_context  # noqa: PLC0415

        return tls_context(self.objects, name, "client")

    @cached_property
    def devices(self) -> Devices:
        """The guest's devices."""
        from blkxact.machine.devices import Devices  # noqa: PLC0415

        return Devices(self.graph, self.backends, self.objects, self.release)

    @cached_property
    def guest(self) -> Guest:
        """The requests of the guest."""
        from blkxact.block.guest import Guest  # noqa: PLC0415

        return Guest()

    @cached_property
    def exports(self) -> Exports:
        """Nodes that clients from outside read and write."""
        from blkxact.export.exports import Exports  # noqa: PLC0415
        from blkxact.qapi.versions import NBD_EXTENDED_HEADERS, behaves  # noqa: PLC0415

        return Exports(
            self.graph,
            self.objects,
            self.graph.find_bitmap,
            self.emit,
            extended_headers=behaves(NBD_EXTENDED_HEADERS, self.release),
        )

    @cached_property
    def nbd_server(self) -> NbdServer:
        """The NBD server, running or not."""
        from blkxact.export.nbd_server import NbdServer  # noqa: PLC0415

        return NbdServer(self.exports, self.clock)

    @property
    def nbd_address(self) -> str | None:
        """Where NBD clients are taken, if they are: ``unix:PATH``, ``tcp:HOST:PORT``."""
        return self.nbd_server.address if self.has("nbd_server") else None
