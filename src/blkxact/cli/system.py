"""``blkxact system``: the daemon, with the command line of qemu-system-x86_64.

Programs that start a whole QEMU, QEMU's own tests among them, can start this in its place. What
the block layer needs is understood; what concerns a machine is ignored, because there is none; all
else is refused.

QEMU's counterpart: ``softmmu/vl.c``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from blkxact.errors import QmpError
from blkxact.options import (
    ChardevSocket,
    ChardevStdio,
    CommandSet,
    MonitorOptions,
    ServeOptions,
    UnixAddress,
)

from .boundary import run_command
from .chardev import parse_chardev, parse_qmp
from .drive import DriveParser
from .errors import CliError
from .keyval import parse_opts
from .members import parse_blockdev, parse_object
from .serve import add_chardev, parse_monitor, serve
from .system_help import help_for, usage, version

T = TypeVar("T")

IGNORED_SWITCHES: Final = frozenset(
    [
        "nodefaults",
        "nographic",
        "no-user-config",
        "no-shutdown",
        "no-reboot",
        "enable-kvm",
        "no-hpet",
        "no-acpi",
    ]
)
IGNORED: Final = frozenset(
    [
        "machine",
        "M",
        "accel",
        "display",
        "vga",
        "serial",
        "parallel",
        "m",
        "smp",
        "cpu",
        "name",
        "rtc",
        "boot",
        "net",
        "nic",
        "uuid",
        "L",
        "D",
        "d",
        "trace",
        "msg",
        "icount",
        "sandbox",
        "k",
        "usbdevice",
    ]
)
"""Options with an argument that concern the machine, or how QEMU talks about itself."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Take all words: the options have one dash, as QEMU's."""
    parser.add_argument("words", nargs=argparse.REMAINDER, help="qemu-system-x86_64's options")
    parser.prefix_chars = "\0"
    parser.add_help = False


def run(args: argparse.Namespace) -> int:
    """Serve until ``quit`` or a signal."""
    return start(args.words, "blkxact system")


def main(words: Sequence[str], program: str) -> int:
    """Run as a program of its own, which calls itself ``program`` in messages."""
    return run_command(program, lambda: start(words, program))


def start(words: Sequence[str], program: str) -> int:
    """Answer a question, or serve until ``quit`` or a signal."""
    command_line = _CommandLine(program)
    options = command_line.parse(words)
    if command_line.answers:
        print("".join(command_line.answers), end="")
        return 0
    serve(options)
    return 0


def system_options(words: Sequence[str]) -> ServeOptions:
    """Return what the words ask for; raises ``CliError`` naming the option."""
    return _CommandLine("blkxact system").parse(words)


class _CommandLine:
    """The words are gone through twice: things that others name come first."""

    def __init__(self, program: str) -> None:
        self._program = program
        self.options = ServeOptions(console=True, command_set=CommandSet.SYSTEM)
        self._drives = DriveParser()
        self.answers: list[str] = []
        """What was asked for instead of starting."""
        self._taken: dict[str, Callable[[str], None]] = {
            "blockdev": self._blockdev,
            "drive": self._drive,
            "object": self._object,
            "device": self._device,
            "chardev": self._chardev,
            "mon": self._mon,
            "qmp": self._qmp,
            "qmp-pretty": self._qmp_pretty,
            "monitor": self._monitor,
            "qtest": self._qtest,
            "pidfile": self._pidfile,
        }

    def parse(self, words: Sequence[str]) -> ServeOptions:
        """Go through the words."""
        found = list(self._split(words))
        for first in (True, False):
            for option, name, value in found:
                if (name == "chardev") is first and name in self._taken:
                    _located(f"{option} {value}", self._taken[name], value)
        return self.options

    def _split(self, words: Sequence[str]) -> list[tuple[str, str, str]]:
        found = []
        rest = iter(words)
        for option in rest:
            if not option.startswith("-"):
                found.append(("-drive", "drive", f"file={option.replace(',', ',,')}"))
                continue
            name = option.removeprefix("-").removeprefix("-")
            if name == "S":
                self.options.paused = True
            elif name in self._taken or name in IGNORED:
                value = next(rest, None)
                if value is None:
                    raise CliError(f"{option}: requires an argument")
                answer = help_for(name, value)
                if answer is not None:
                    self.answers.append(answer)
                else:
                    found.append((option, name, value))
            elif name in ("h", "help"):
                self.answers.append(usage(self._program, IGNORED | IGNORED_SWITCHES))
            elif name == "version":
                self.answers.append(version())
            elif name not in IGNORED_SWITCHES:
                raise CliError(f"{option}: invalid option")
        return found

    def _note(self, kind: str, text: str) -> None:
        self.options.texts.setdefault(kind, []).append(f"-{kind} {text}")

    def _blockdev(self, text: str) -> None:
        self.options.blockdevs.append(parse_blockdev(text))
        self._note("blockdev", text)

    def _drive(self, text: str) -> None:
        self.options.drives.append(self._drives.parse(text))
        self._note("drive", text)

    def _object(self, text: str) -> None:
        self.options.objects.append(parse_object(text))
        self._note("object", text)

    def _device(self, text: str) -> None:
        members: dict[str, Any]
        members = json.loads(text) if text.startswith("{") else parse_opts(text, "driver")
        if "driver" not in members:
            raise CliError("Parameter 'driver' is missing")
        self.options.devices.append(members)
        self._note("device", text)

    def _chardev(self, text: str) -> None:
        add_chardev(self.options, parse_chardev(text))

    def _mon(self, text: str) -> None:
        self.options.monitors.append(parse_monitor(text, self.options))

    def _qmp(self, text: str, *, pretty: bool = False) -> None:
        if text == "none":
            return
        number = len(self.options.chardevs)
        chardev = ChardevStdio() if text == "stdio" else parse_qmp(text, number)
        add_chardev(self.options, chardev)
        self.options.monitors.append(MonitorOptions(chardev.id, pretty=pretty))

    def _qmp_pretty(self, text: str) -> None:
        self._qmp(text, pretty=True)

    def _monitor(self, text: str) -> None:
        if text != "none":
            raise CliError("The human monitor is only there through human-monitor-command")

    def _qtest(self, text: str) -> None:
        if text.startswith("chardev:"):
            chardev = self.options.chardevs.get(text.removeprefix("chardev:"))
            if not isinstance(chardev, ChardevSocket):
                raise CliError(f"chardev '{text}' not found")
            self.options.qtest = chardev.address
            return
        address = parse_qmp(text, 0).address
        if not isinstance(address, UnixAddress):
            raise CliError("a Unix socket is expected")
        self.options.qtest = address

    def _pidfile(self, path: str) -> None:
        self.options.pidfile = path


def _located(where: str, parse: Callable[[str], None], value: str) -> None:
    try:
        parse(value)
    except (CliError, QmpError) as error:
        raise CliError(f"{where}: {error}") from error
