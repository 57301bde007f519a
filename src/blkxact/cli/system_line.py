"""The words of qemu-system's command line become ``ServeOptions``, or an answer.

The words are gone through twice, as in QEMU: first it is seen that each option exists and has its
argument, then they are obeyed. Things are made sorted by their kind (``_STAGES``).

QEMU's counterpart: ``qemu_init()`` in ``softmmu/vl.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from blkxact.errors import QmpError
from blkxact.machine.options import (
    ChardevSocket,
    ChardevStdio,
    CommandSet,
    DeviceOptions,
    FdSetEntry,
    MonitorOptions,
    ServeOptions,
    Step,
    StepKind,
)
from blkxact.qapi.versions import has_option

from .chardev import parse_chardev, parse_short
from .emulate import check_release, default_release
from .errors import CliError
from .guest_members import check_members
from .keyval import parse_opts, parse_switch
from .machine_words import MachineWords
from .members import parse_blockdev, parse_object
from .monitor import Mode, parse_mon
from .record_options import record_words
from .set_option import Word, refuse_setting, with_settings
from .system_help import help_for, usage, version
from .system_options import (
    OF_OTHER_TARGETS,
    REFUSED_OPTIONS,
    takes_argument,
)

if TYPE_CHECKING:
    from blkxact.machine.options import DriveOptions

    from .drive import DriveParser

_STAGES: Final[tuple[StepKind, ...]] = (
    *("fd", "object", "chardev", "blockdev", "drive", "monitor", "device", "drive-device"),
    "loadvm",
)
"""The order in which QEMU makes things."""

_DISKS: Final = {
    **{f"hd{letter}": f"index={index},media=disk" for index, letter in enumerate("abcd")},
    "cdrom": "index=2,media=cdrom",
    "fda": "if=floppy,index=0",
    "fdb": "if=floppy,index=1",
    "pflash": "if=pflash",
    "mtdblock": "if=mtd",
    "sd": "if=sd",
}
"""Short forms of ``-drive``."""

_MIGRATION: Final = ("defer", "tcp:", "unix:", "exec:", "fd:", "rdma:", "vsock:")


def parse_hot_drive(text: str) -> DriveOptions:
    """Return the drive that ``drive_add`` of the human monitor describes; raises ``QmpError``."""
    from .drive import DriveParser  # noqa: PLC0415 - seldom used

    try:
        return DriveParser().parse(text)
    except CliError as error:
        raise QmpError(str(error)) from error


class CommandLine:
    """One command line."""

    _where = ""
    _snapshot = False
    """Whether media are not written to: ``-snapshot`` is among the words."""

    def __init__(self, program: str, called: str) -> None:
        self._called = called
        self.options = ServeOptions(
            program=program,
            release=default_release(),
            console=True,
            pidfile_first=True,
            command_set=CommandSet.SYSTEM,
        )
        self._machine = MachineWords()
        self.answer: str | None = None
        """What was asked for instead of starting."""
        self._drives: DriveParser | None = None
        self._monitors = 0
        self._chardevs: dict[str, Any] = {}
        self._obey: dict[str, Callable[[str], None]] = {
            "add-fd": self._add_fd,
            "blockdev": lambda text: self._add("blockdev", parse_blockdev(text)),
            "chardev": self._chardev,
            "device": self._device,
            "drive": self._drive,
            "emulate": self._emulate,
            "incoming": self._incoming,
            "loadvm": self._loadvm,
            "mon": lambda text: self._add("monitor", parse_mon(text)),
            "monitor": lambda text: self._monitor(text, "readline"),
            "msg": self._msg,
            "object": lambda text: self._add("object", parse_object(text)),
            "qmp": lambda text: self._monitor(text, "control"),
            "qmp-pretty": lambda text: self._monitor(text, "control", pretty=True),
            **self._options_of_tests(),
            **self._options_of_the_process(),
            "readconfig": self._readconfig,
            **record_words(self.options),
            "set": refuse_setting,
            "S": self._paused,
        }

    def _options_of_the_process(self) -> dict[str, Callable[[str], None]]:
        return {
            "chroot": self._chroot,
            "daemonize": self._daemonize,
            "pidfile": self._pidfile,
            "preconfig": self._preconfig,
            "run-with": self._run_with,
            "runas": self._runas,
        }

    def _options_of_tests(self) -> dict[str, Callable[[str], None]]:
        return {
            "qtest": self._qtest,
            "qtest-log": self._qtest_log,
            "testing": self._testing,
            "testing-power": self._testing_power,
        }

    def parse(self, words: Sequence[str]) -> ServeOptions:
        """Go through the words; raises ``CliError``."""
        found = with_settings(list(_split(words)))
        for word in found:
            if word.name in ("h", "help"):
                self.answer = self.answer or usage(self._called)
            elif word.name == "version":
                self.answer = self.answer or version(self.options.release)
            if self.answer is not None:
                return self.options
            if word.name == "emulate":
                self._one(word)
        for word in found:
            if not has_option(word.name, self.options.release):
                raise CliError(f"{word.option}: invalid option")
        self._snapshot = any(word.name == "snapshot" for word in found)
        for word in found:
            self._one(word)
        if self.answer is None:
            self._check()
            self.options.machine = self._machine.options()
            self.options.clock_runs = self._machine.has_real_accelerator
            self.options.parse_drive = parse_hot_drive
        self.options.steps.sort(key=lambda step: _STAGES.index(step.kind))
        return self.options

    def _one(self, word: Word) -> None:
        if word.name == "snapshot":
            return
        self._where = word.where
        if word.name in REFUSED_OPTIONS:
            raise CliError(f"{word.where}: not supported")
        if word.name in _DISKS:
            escaped = word.value.replace(",", ",,")
            self._located(self._drive, f"{_DISKS[word.name]},file={escaped}")
            return
        answer = help_for(word.name, word.argument, self._where)
        if answer is not None:
            self.answer = self.answer or answer
        else:
            self._located(lambda value: self._obey_option(word.name, value), word.argument)

    def _obey_option(self, name: str, value: str) -> None:
        if name in self._obey:
            self._obey[name](value)
        else:
            self._machine.take(name, value)

    def _located(self, obey: Callable[[str], None], value: str) -> None:
        where = self._where
        try:
            obey(value)
        except CliError as error:
            if error.is_located:
                raise
            raise error.located(where) from error
        except QmpError as error:
            raise CliError(f"{where}: {error}") from error

    def _check(self) -> None:
        """Refuse what cannot be together."""
        if self.options.preconfig and self.options.of("loadvm"):
            raise CliError("'preconfig' and 'loadvm' options are mutually exclusive")
        stdio = [step for step in self.options.steps if isinstance(step.value, ChardevStdio)]
        if stdio and self.options.daemonize:
            raise CliError(f"{stdio[0].where}: cannot use stdio with -daemonize")
        if len(stdio) > 1:
            raise CliError(f"{stdio[1].where}: cannot use stdio by multiple character devices")

    def _add(self, kind: StepKind, value: Any) -> None:
        self.options.steps.append(Step(kind, value, self._where))

    # One method for each option that is more than a line.

    def _chardev(self, text: str) -> None:
        chardev = parse_chardev(text, self.options.release)
        if chardev.id in self._chardevs:
            raise CliError(f"Duplicate ID '{chardev.id}' for chardev")
        self._chardevs[chardev.id] = chardev
        self._add("chardev", chardev)

    def _monitor(self, text: str, mode: Mode, *, pretty: bool = False) -> None:
        if text == "none" and mode == "readline":
            return
        ident = f"compat_monitor{self._monitors}"
        self._monitors += 1
        if text.startswith("chardev:"):
            ident = text.removeprefix("chardev:")
        else:
            self._add("chardev", parse_short(text, ident, self.options.release))
        self._add("monitor", MonitorOptions(ident, None, mode, pretty))

    def _drive(self, text: str) -> None:
        if self._drives is None:
            from .drive import DriveParser  # noqa: PLC0415 - a start without drives is shorter

            self._drives = DriveParser(snapshot=self._snapshot)
        drive = self._drives.parse(text)
        self._add("drive", drive)
        if drive.device is not None:
            self._add("drive-device", drive)

    def _device(self, text: str) -> None:
        from blkxact.block.filename import parse_json_text  # noqa: PLC0415 - seldom JSON

        is_json = text.startswith("{")
        members: dict[str, Any]
        members = parse_json_text(text) if is_json else parse_opts(text, "driver")
        if "driver" not in members:
            raise CliError("Parameter 'driver' is missing")
        self._add("device", DeviceOptions(members, is_json=is_json))

    def _qtest(self, text: str) -> None:
        if text.startswith("chardev:"):
            chardev = self._chardevs.get(text.removeprefix("chardev:"))
        else:
            chardev = parse_short(text, "qtest")
        if not isinstance(chardev, ChardevSocket):
            raise CliError(f'Failed to initialize device for qtest: "{text}"')
        self.options.qtest = chardev.address
        # It is connected there, and not a second time as a monitor's chardev.
        self.options.steps = [one for one in self.options.steps if one.value is not chardev]

    def _qtest_log(self, path: str) -> None:
        self.options.qtest_log = path != "none"

    def _readconfig(self, path: str) -> None:
        from .readconfig import read_config  # noqa: PLC0415 - seldom used

        for section in read_config(path):
            try:
                self._obey_option(section.option, section.text)
            except CliError as error:
                if error.is_located:
                    raise
                raise CliError(str(error), hint=error.hint, place=section.place) from error
            except QmpError as error:
                raise CliError(str(error), place=section.place) from error

    def _add_fd(self, text: str) -> None:
        members = parse_opts(text)
        unknown = members.keys() - {"fd", "set", "opaque", "id"}
        if unknown:
            raise CliError(f"Invalid parameter '{min(unknown)}'")
        numbers = {name: _number(name, members.get(name)) for name in ("fd", "set")}
        if numbers["fd"] < 0:
            raise CliError("fd option is required and must be non-negative")
        if numbers["fd"] <= 2:
            raise CliError("fd cannot be a standard I/O stream")
        if numbers["set"] < 0:
            raise CliError("set option is required and must be non-negative")
        self._add("fd", FdSetEntry(numbers["fd"], numbers["set"], members.get("opaque")))

    def _incoming(self, text: str) -> None:
        if not text.startswith(_MIGRATION):
            raise CliError(f"unknown migration protocol: {text}")
        raise CliError("There is no guest that could be migrated")

    def _loadvm(self, name: str) -> None:
        """Keep the last of several; a refusal does not name the option, as in QEMU."""
        self.options.steps = [step for step in self.options.steps if step.kind != "loadvm"]
        self.options.steps.append(Step("loadvm", name))

    def _emulate(self, text: str) -> None:
        self.options.release = check_release(text)

    def _msg(self, text: str) -> None:
        check_members("msg", text)
        members = parse_opts(text)
        self.options.message_times = parse_switch("timestamp", members.get("timestamp", "off"))

    def _daemonize(self, _text: str) -> None:
        self.options.daemonize = True

    def _paused(self, _text: str) -> None:
        self.options.paused = True

    def _preconfig(self, _text: str) -> None:
        self.options.preconfig = True

    def _testing(self, _text: str) -> None:
        self.options.testing = True

    def _testing_power(self, _text: str) -> None:
        self.options.testing_power = True

    def _pidfile(self, path: str) -> None:
        self.options.pidfile = path

    def _runas(self, text: str) -> None:
        from .privileges import find_user  # noqa: PLC0415 - few ask for it

        find_user(text)
        self.options.run_as = text

    def _run_with(self, text: str) -> None:
        from .privileges import take_run_with  # noqa: PLC0415 - few ask for it

        take_run_with(text, self.options)

    def _chroot(self, path: str) -> None:
        self.options.chroot = path


def _split(words: Sequence[str]) -> Iterator[Word]:
    """Yield the options with their arguments; a word that is none is an image for a drive."""
    rest = iter(words)
    for option in rest:
        if not option.startswith("-") or option == "-":
            yield Word("", "hda", option)
            continue
        name = option.removeprefix("-").removeprefix("-")
        needs_argument = takes_argument(name)
        if name in OF_OTHER_TARGETS:
            raise CliError("Option not supported for this target")
        if needs_argument is None:
            raise CliError(f"{option}: invalid option")
        value = next(rest, None) if needs_argument else ""
        if value is None:
            raise CliError(f"{option}: requires an argument")
        yield Word(option, name, value)


def _number(name: str, text: str | None) -> int:
    if text is None:
        return -1
    try:
        return int(text, 0)
    except ValueError:
        raise CliError(f"Parameter '{name}' expects a number") from None
