"""What a case begins with: its disks, and the options of its emulator."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from blkxact.cli.emulate import check_release, default_release
from blkxact.cli.errors import CliError
from blkxact.cli.main import main
from blkxact.cli.serve import read_words
from blkxact.cli.system_line import CommandLine
from blkxact.harness import Disk
from blkxact.machine.options import CommandSet, ServeOptions
from blkxact.qmp.json_text import encode_text
from blkxact.runtime.release import Release

from .history import PAGE, History, Write, page_of, random_writes
from .scenario import Disk as ScenarioDisk
from .scenario import Scenario

BACKING_WRITES: Final = 8
"""Writes whose data a backing file holds."""


def emulator_options(scenario: Scenario, directory: Path) -> ServeOptions:
    """Return the options; raises ``CliError``."""
    emulated = scenario.emulator
    release = release_of(scenario)
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


def release_of(scenario: Scenario) -> Release:
    """Return which QEMU the emulator is; raises ``CliError``."""
    name = scenario.emulator.emulate
    return default_release() if name is None else check_release(name)


def image_paths(scenario: Scenario, directory: Path) -> dict[str, Path]:
    """Return the path of each disk's image."""
    return {each.name: directory / f"{each.name}.{each.format}" for each in scenario.disk}


def _disks(scenario: Scenario, directory: Path) -> list[Disk]:
    paths = image_paths(scenario, directory)
    return [
        Disk(each.name, paths[each.name], each.size, each.format, each.device)
        for each in scenario.disk
    ]


def _system(scenario: Scenario, directory: Path) -> list[str]:
    words = ["-qmp", f"unix:{directory}/qmp,server=on,wait=off"]
    for disk in _disks(scenario, directory):
        words += ["-blockdev", encode_text(disk.blockdev())]
        words += ["-device", encode_text(disk.device_add())]
    return words


def _storage_daemon(scenario: Scenario, directory: Path) -> list[str]:
    words = ["--chardev", f"socket,id=qmp,path={directory}/qmp,server=on,wait=off"]
    words += ["--monitor", "chardev=qmp"]
    for disk in _disks(scenario, directory):
        words += ["--blockdev", encode_text(disk.blockdev())]
    return words


def make_disks(scenario: Scenario, directory: Path, history: History) -> int:
    """Make the disks, and note what their backing files hold; return how many writes that is."""
    for name, image in _images(scenario.disk, directory).items():
        image.write(directory / name)
    writes = _backing_writes(scenario.disk)
    for write in writes:
        history.begin(write, 0.0)
        history.end(write.number, 0.0)
    return len(writes)


def _backing_writes(disks: Sequence[ScenarioDisk]) -> list[Write]:
    sizes = {disk.name: disk.size for disk in disks if disk.backing}
    return list(random_writes(random.Random(0), 1, sizes, BACKING_WRITES))  # noqa: S311


class _Image(NamedTuple):
    """What a file holds that is not zero."""

    size: int
    parts: tuple[tuple[int, bytes], ...]

    @classmethod
    def read(cls, path: Path) -> _Image:
        data = path.read_bytes()
        parts = ((at, data[at : at + PAGE]) for at in range(0, len(data), PAGE))
        return cls(len(data), tuple(part for part in parts if any(part[1])))

    def write(self, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(self.size)
            for offset, data in self.parts:
                os.pwrite(file.fileno(), data, offset)


_MADE: Final[dict[tuple[ScenarioDisk, ...], dict[str, _Image]]] = {}


def _images(disks: tuple[ScenarioDisk, ...], place: Path) -> dict[str, _Image]:
    """Return the files of the disks: they are the same in all cases of a scenario.

    The first time they are made below ``place``.
    """
    if disks not in _MADE:
        writes = _backing_writes(disks)
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            directory = Path(scratch)
            for disk in disks:
                _make_disk(directory, disk, [write for write in writes if write.disk == disk.name])
            _MADE[disks] = {path.name: _Image.read(path) for path in directory.iterdir()}
    return _MADE[disks]


def _make_disk(directory: Path, disk: ScenarioDisk, writes: Sequence[Write]) -> None:
    path = directory / f"{disk.name}.{disk.format}"
    if disk.backing is not None:
        base = directory / f"{disk.name}.base.{disk.backing}"
        pages = (
            (page * PAGE, page_of(each.number, page)) for each in writes for page in each.pages
        )
        raw = directory / f"{disk.name}.base.raw"
        _Image(disk.size, tuple(pages)).write(raw)
        if disk.backing == "qcow2":
            _image_tool("convert", "-f", "raw", "-O", "qcow2", str(raw), str(base))
            raw.unlink()
        _image_tool(
            "create", "-q", "-f", disk.format, "-F", disk.backing, "-b", base.name, str(path)
        )
    elif disk.format == "raw":
        _Image(disk.size, ()).write(path)
    else:
        _image_tool("create", "-q", "-f", disk.format, str(path), str(disk.size))
    for bitmap in disk.bitmaps:
        _image_tool("bitmap", "--add", "-f", disk.format, str(path), bitmap)


def _image_tool(*words: str) -> None:
    status = main(["image", *words])
    assert status == 0, words
