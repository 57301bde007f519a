"""``blkxact shim DIR``: QEMU's programs by their names, each run by this interpreter.

Invariant: a shim depends on nothing in the environment. It runs Python in isolated mode and brings
the path along on which blkxact and its packages are found here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Final

from .errors import CliError

PROGRAMS: Final = {
    "qemu-system-x86_64": "system",
    "qemu-kvm": "system",
    "qemu-storage-daemon": "storage_daemon",
    "qemu-img": "image",
}
"""Name to the function of ``blkxact.__main__``; ``qemu-img`` has a program of its own here."""

MAX_SHEBANG: Final = 127
"""Bytes of a first line that all kernels take."""

SHIM: Final = """\
import sys
sys.path += {paths}
from blkxact.{module} import {function}
sys.exit({function}({arguments}))
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``shim``."""
    parser.epilog = "example:\n  blkxact shim /opt/qemu && PATH=/opt/qemu:$PATH qmpbackup ..."
    parser.add_argument("directory", metavar="DIR", help="made if it is not there")


def run(args: argparse.Namespace) -> int:
    """Write the shims."""
    directory = Path(args.directory)
    try:
        real = write_shims(directory)
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from error
    print(f"{directory}: {', '.join(PROGRAMS)}")
    if real is None:
        print("There is no other qemu-img, to which verbs could be handed that blkxact has not.")
    return 0


def write_shims(directory: Path) -> str | None:
    """Write the shims; return the real qemu-img, if there is one. Raises ``OSError``."""
    real = _real_qemu_img(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, function in PROGRAMS.items():
        write_program(directory / name, _source(function, real))
    return real


def write_program(path: Path, source: str) -> None:
    """Write a program at once, so that nobody starts half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(source)
    unfinished.chmod(0o755)
    unfinished.replace(path)


def program(module: str, function: str, arguments: str = "") -> str:
    """Return the source of a program that calls ``function`` of a module in ``blkxact``."""
    return _first_lines() + SHIM.format(
        paths=_own_paths(), module=module, function=function, arguments=arguments
    )


def _real_qemu_img(directory: Path) -> str | None:
    """Return the qemu-img on the path that is not the one to be written."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    others = [place for place in places if place and Path(place).resolve() != directory.resolve()]
    return shutil.which("qemu-img", path=os.pathsep.join(others))


def _source(function: str, real: str | None) -> str:
    module, arguments = "__main__", ""
    if function == "image":
        module, function, arguments = "cli.qemu_img", "main", f"sys.argv[1:], {real!r}"
    return program(module, function, arguments)


def _first_lines() -> str:
    """Return what starts this interpreter, isolated from its environment."""
    line = f"#!{sys.executable} -IS\n"
    if len(line) <= MAX_SHEBANG and " " not in sys.executable:
        return line
    return f"#!/bin/sh\n'''exec' \"{sys.executable}\" -IS \"$0\" \"$@\"\n' '''\n"


def _own_paths() -> list[str]:
    """Return the entries of the path that are not the standard library's."""
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    own = Path(__file__).resolve().parents[2]
    entries = [str(own), *(str(Path(entry).resolve()) for entry in sys.path if entry)]
    return [
        entry
        for entry in dict.fromkeys(entries)
        if Path(entry).is_dir() and entry not in standard and not entry.endswith("lib-dynload")
    ]
