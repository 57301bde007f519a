"""What a case begins with: its disks, and the options of its emulator."""

from __future__ import annotations

from pathlib import Path

from blkxact.cli.emulate import check_release, default_release
from blkxact.cli.errors import CliError
from blkxact.cli.main import main
from blkxact.cli.serve import read_words
from blkxact.cli.system_line import CommandLine
from blkxact.machine.options import CommandSet, ServeOptions

from .scenario import Scenario


def emulator_options(scenario: Scenario, directory: Path) -> ServeOptions:
    """Return the options; raises ``CliError``."""
    emulated = scenario.emulator
    release = default_release() if emulated.emulate is None else check_release(emulated.emulate)
    values = {"dir": str(directory), "here": scenario.here}
    more = [word for each in emulated.options for word in scenario.words(each, values)]
    if emulated.program == "system":
        words = ["-nodefaults", "-display", "none", *_system(scenario, directory), *more]
        line = CommandLine("qemu-system-x86_64", "qemu-system-x86_64")
        options = line.parse(words)
        options.release = release
        return options
    options = ServeOptions(
        program="qemu-storage-daemon",
        release=release,
        command_set=CommandSet.STORAGE_DAEMON,
    )
    answer = read_words([*_storage_daemon(scenario, directory), *more], options, "serve")
    if answer is not None:
        raise CliError("emulator.options: they ask for help instead of starting anything")
    return options


def _blockdev(scenario: Scenario, directory: Path, number: int) -> str:
    disk = scenario.disk[number]
    path = str(directory / f"{disk.name}.{disk.format}").replace(",", ",,")
    return f"driver={disk.format},node-name={disk.name},file.driver=file,file.filename={path}"


def _system(scenario: Scenario, directory: Path) -> list[str]:
    words = ["-qmp", f"unix:{directory}/qmp,server=on,wait=off"]
    for number, disk in enumerate(scenario.disk):
        words += ["-blockdev", _blockdev(scenario, directory, number)]
        words += ["-device", f"{disk.device},id=device-{disk.name},drive={disk.name}"]
    return words


def _storage_daemon(scenario: Scenario, directory: Path) -> list[str]:
    words = ["--chardev", f"socket,id=qmp,path={directory}/qmp,server=on,wait=off"]
    words += ["--monitor", "chardev=qmp"]
    for number in range(len(scenario.disk)):
        words += ["--blockdev", _blockdev(scenario, directory, number)]
    return words


def make_image(path: Path, fmt: str, size: int) -> None:
    """Make an empty disk."""
    if fmt == "raw":
        with path.open("wb") as file:
            file.truncate(size)
        return
    status = main(["image", "create", "-q", "-f", fmt, str(path), str(size)])
    assert status == 0, path
