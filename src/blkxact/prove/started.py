"""The emulator that somebody else starts: the tool, or the tool's libvirt.

They start a program that stands in for it (``relay``) and hands over its command line and the
sockets that it was started with. The emulator itself is made as in every case, so all faults strike
it, and its clock and record are the same.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

from blkxact.cli.errors import CliError
from blkxact.cli.shim import program, write_program
from blkxact.cli.system_line import CommandLine
from blkxact.errors import QmpError
from blkxact.machine.options import ChardevStdio, ServeOptions
from blkxact.runtime.release import Release

from .relay import ENDED, MAX_PACKET, ORDINARY, REFUSED
from .scenario import Scenario
from .setup import release_of
from .workplace import Workplace

PROGRAM: Final = "qemu-system-x86_64"
MAX_DESCRIPTORS: Final = 64
"""That one emulator is started with."""
PATIENCE_S: Final = 10.0
"""Seconds in which the program that stands in says what it was started with."""


@dataclass(frozen=True)
class StandIn:
    """A program that stands in for an emulator, and what it was started with."""

    channel: socket.socket
    words: tuple[str, ...]
    cwd: str
    descriptors: Mapping[int, int]
    """The number in the words to ours."""

    def refuse(self, reason: str) -> None:
        """Let it fail."""
        self._answer(REFUSED + f"{PROGRAM}: {reason}".encode())

    def ended(self, status: int) -> None:
        """Let it end as the emulator does."""
        self._answer(ENDED + bytes([status]))

    def _answer(self, packet: bytes) -> None:
        with suppress(OSError):
            self.channel.send(packet[:MAX_PACKET])

    def close(self) -> None:
        """Close what the emulator has now. Without an answer, it is killed with the emulator."""
        self.channel.close()
        for descriptor in self.descriptors.values():
            os.close(descriptor)

    def take_over(self, pipe: Connection) -> Connection:
        """Be the emulator: give the descriptors their numbers; return where ``pipe`` is now.

        In a process that has been forked: what else had these numbers was not of use to it.
        """
        above = max(self.descriptors, default=0) + 1
        own = [pipe.fileno(), self.channel.fileno(), *self.descriptors.values()]
        moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in own]
        self.channel.detach()
        self.channel.__init__(fileno=moved[1])  # type: ignore[misc]
        for number, descriptor in zip(self.descriptors, moved[2:], strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(self.cwd)
        return Connection(moved[0])


class Starts:
    """The starts of the emulator of one case."""

    def __init__(
        self, scenario: Scenario, place: Workplace, make: Callable[[ServeOptions, StandIn], bool]
    ) -> None:
        """``make`` makes the emulator, and returns whether it runs."""
        self._scenario = scenario
        self._place = place
        self._make = make
        self._release = release_of(scenario)
        self.listener: Final = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        """Readable when the emulator is to be started."""
        self.listener.bind(str(place.starts))
        self.listener.listen()

    def close(self) -> None:
        """Let nobody start it any more."""
        self.listener.close()

    def run_command(self) -> str | None:
        """Run the command that lets somebody start it; return what went wrong.

        Raises ``client.StartError`` if there is no such command.
        """
        self._place.shared.mkdir(exist_ok=True)
        call = self._place.start(write_relay(self._place.shared, self._release))
        try:
            end = time.monotonic() + self._scenario.client.timeout
            while call.pidfd not in (
                ready := wait([self.listener, call.pidfd], end - time.monotonic())
            ):
                if not ready:
                    return f"it does not end: {call.printed()}"
                self.take()
        finally:
            status = call.reap()
        return None if status == 0 else f"it exits with {status}: {call.printed()}"

    def take(self) -> bool:
        """Start it for somebody who has connected; return whether it runs."""
        channel, _ = self.listener.accept()
        channel.settimeout(PATIENCE_S)
        try:
            packet, given, _, _ = socket.recv_fds(channel, MAX_PACKET, MAX_DESCRIPTORS)
        except OSError:
            packet = b""
        if not packet:  # it has been killed
            channel.close()
            return False
        channel.settimeout(None)
        cwd, numbers, *words = map(os.fsdecode, packet.split(b"\0"))
        descriptors = dict(zip(map(int, filter(None, numbers.split(","))), given, strict=True))
        stand_in = StandIn(channel, tuple(words), cwd, descriptors)
        try:
            options = self._options_for(stand_in)
            return options is not None and self._make(options, stand_in)
        finally:
            stand_in.close()

    def _options_for(self, stand_in: StandIn) -> ServeOptions | None:
        line = CommandLine(PROGRAM, PROGRAM)
        try:
            options = line.parse(stand_in.words)
            if line.answer is not None:
                stand_in.channel.send(ORDINARY)
                return None
            _check(options)
        except (CliError, QmpError) as error:
            stand_in.refuse(str(error))
            return None
        options.release = self._release
        return options


def _check(options: ServeOptions) -> None:
    """Refuse what a process that stands in for another one does not do."""
    if options.daemonize or options.pidfile is not None:
        raise CliError("blkxact prove runs it without -daemonize and -pidfile")
    if any(isinstance(step.value, ChardevStdio) for step in options.steps):
        raise CliError("blkxact prove runs it without a monitor on standard input")


def write_relay(directory: Path, release: Release) -> Path:
    """Write the program that stands in for the emulator, unless it is there; return its path.

    All cases of a sweep have the same one: libvirt remembers what it found out about it.
    """
    path = directory / PROGRAM
    if not path.exists():
        ordinary = directory / "ordinary" / PROGRAM
        ordinary.parent.mkdir(parents=True, exist_ok=True)
        write_program(ordinary, program("__main__", "system"))
        emulate = str(release).rpartition(".")[0]  # as the option --emulate has it
        arguments = f"{str(ordinary)!r}, {emulate!r}"
        write_program(path, program("prove.relay", "main", arguments))
    return path
