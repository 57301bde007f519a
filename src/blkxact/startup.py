"""Makes what the command line asks for, step by step, and then lets the clients in.

Invariants:

* A chardev's socket listens from the moment of its step. Its clients are served when the last step
  is done, so they find everything there.
* An error names the words on the command line that it comes from. Whoever runs the steps closes
  what the earlier ones made.

QEMU's counterpart: ``qemu_init()`` in ``softmmu/vl.c``, process_options() in
``storage-daemon/qemu-storage-daemon.c``.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from blkxact.block_layer import BlockLayer
from blkxact.commands import COMMANDS
from blkxact.errors import QmpError
from blkxact.machine.options import (
    FLASH_DEVICE,
    VIRTIO_DISK,
    Chardev,
    DeviceOptions,
    DriveOptions,
    FdSetEntry,
    MonitorOptions,
    Step,
    StepKind,
)
from blkxact.monitor.chardevs import Endpoint, open_chardev
from blkxact.qmp_server import QmpServer

_log = logging.getLogger(__name__)


class Startup:
    """The start of one emulator, whose monitors are on ``server``."""

    def __init__(self, layer: BlockLayer, server: QmpServer) -> None:
        self._layer = layer
        self._server = server
        self._endpoints: dict[str, Endpoint] = {}
        """By the id of their chardev."""
        self._monitors: list[MonitorOptions] = []
        self._where = ""
        """The words of the step that is being done."""
        self.is_waiting = False
        """A client is waited for: this may be cancelled."""
        self._make: dict[StepKind, Callable[[Any], Awaitable[None]]] = {
            "fd": self._add_fd,
            "object": lambda value: self._add("object-add", value),
            "chardev": self._open_chardev,
            "blockdev": lambda value: self._add("blockdev-add", value),
            "drive": self._add_drive,
            "monitor": self._add_monitor,
            "device": self._add_device,
            "drive-device": self._add_drive_device,
            "nbd-server": self._start_nbd_server,
            "export": lambda value: self._add("block-export-add", value),
            "loadvm": self._load_snapshot,
        }

    async def run(self, steps: list[Step]) -> None:
        """Do the steps; raises ``QmpError``."""
        for step in steps:
            self._where = step.where
            with _located(step.where):
                await self._make[step.kind](step.value)

    async def open_monitors(self) -> None:
        """Serve the clients of all monitors from now on."""
        for monitor in self._monitors:
            endpoint = self._endpoints[monitor.chardev]
            how: dict[str, bool] = {
                "pretty": monitor.pretty,
                "human": monitor.mode == "readline",
            }
            if endpoint.is_stdio:
                self._server.open_stdio(**how)
            if endpoint.reconnecting is not None:
                self._server.keep_connected(endpoint.reconnecting, endpoint.address, **how)
            client, endpoint.client = endpoint.client, None
            if client is not None:
                await self._server.accept_socket(client, address=endpoint.address, **how)
            listener, endpoint.listener = endpoint.listener, None
            if listener is not None:
                self._server.listen(endpoint.address, listener, path=endpoint.path, **how)

    def filename_of(self, chardev: Chardev) -> str:
        """Return the name that ``query-chardev`` has for it."""
        endpoint = self._endpoints.get(chardev.id)
        reconnecting = None if endpoint is None else endpoint.reconnecting
        is_lost = reconnecting is not None and not reconnecting.is_connected
        return f"disconnected:{chardev}" if is_lost else str(chardev)

    def close(self) -> None:
        """Close the chardevs that no monitor has taken over."""
        for endpoint in self._endpoints.values():
            endpoint.close()

    # Steps

    # What they need is loaded with the first of their kind.

    async def _add(self, command: str, members: dict[str, Any]) -> None:
        await self._execute(command, self._validated(COMMANDS[command].model, members))

    def _validated(self, model: Any, members: dict[str, Any]) -> Any:
        from blkxact.qapi.by_release import of_release  # noqa: PLC0415
        from blkxact.qapi.validation import validate_keyval  # noqa: PLC0415

        return of_release(self._layer.release).validate(model, members, validate_keyval)

    async def _execute(self, name: str, args: Any) -> None:
        result = COMMANDS[name].handler(self._layer, args)
        if result is not None:
            await result

    async def _add_fd(self, entry: FdSetEntry) -> None:
        """Put a duplicate into its set, and close the original, as QEMU does (parse_add_fd)."""
        try:
            inherited = not fcntl.fcntl(entry.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        except OSError:
            inherited = False
        if not inherited:
            raise QmpError("fd is not valid or already in use")
        duplicate = fcntl.fcntl(entry.fd, fcntl.F_DUPFD_CLOEXEC, 0)
        self._layer.descriptors.add(duplicate, entry.fdset_id, entry.opaque)
        os.close(entry.fd)

    async def _add_drive(self, drive: DriveOptions) -> None:
        from blkxact.machine.drives import add_drive  # noqa: PLC0415

        if drive.warning is not None:
            _log.warning("%s: warning: %s", self._where, drive.warning)
        await add_drive(self._layer, drive)

    async def _add_device(self, device: DeviceOptions) -> None:
        self._layer.devices.add(device.members, typed=device.is_json)

    async def _add_drive_device(self, drive: DriveOptions) -> None:
        """Plug a drive in as ``if=`` says; QEMU makes a ``-device`` of a virtio disk only."""
        assert drive.device is not None
        if drive.device == VIRTIO_DISK:
            self._layer.devices.add({"driver": drive.device, "drive": drive.id})
        elif drive.device != FLASH_DEVICE or self._layer.machine.has_flash:
            self._layer.devices.add_of_board(drive.device, drive.id)

    async def _load_snapshot(self, name: str) -> None:
        from blkxact.machine import vm_snapshots  # noqa: PLC0415

        await vm_snapshots.load(self._layer, name)

    async def _start_nbd_server(self, members: dict[str, Any]) -> None:
        from blkxact.commands.export import start_nbd_server  # noqa: PLC0415
        from blkxact.qapi.block_export import NbdServerOptions  # noqa: PLC0415

        start_nbd_server(self._layer, self._validated(NbdServerOptions, members))

    async def _open_chardev(self, chardev: Chardev) -> None:
        if chardev.id in self._endpoints:
            raise QmpError(f"Duplicate ID '{chardev.id}' for chardev")
        self.is_waiting = True
        try:
            self._endpoints[chardev.id] = await open_chardev(
                chardev, self._announce, self._layer.clock
            )
        finally:
            self.is_waiting = False

    def _announce(self, message: str) -> None:
        """Report what is waited for, and which words ask for it."""
        _log.info("%s", f"{self._where}: {message}" if self._where else message)

    async def _add_monitor(self, monitor: MonitorOptions) -> None:
        endpoint = self._endpoints.get(monitor.chardev)
        if endpoint is None:
            raise QmpError(f'chardev "{monitor.chardev}" not found')
        if endpoint.in_use:
            raise QmpError(f"Device '{monitor.chardev}' is in use")
        endpoint.in_use = True
        self._monitors.append(monitor)


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Name in an error the words on the command line that it comes from, if they are known."""
    try:
        yield
    except QmpError as error:
        if not where:
            raise
        raise QmpError(f"{where}: {error.desc}", error.error_class) from error
