"""The commands of ``blkxact`` and the way their errors reach a person.

A command's module is imported only when it is called, so ``blkxact qmp`` does not pay for the block
layer.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final, cast

from blkxact import PACKAGE

from .boundary import run_command
from .errors import CliError
from .parser import Parser
from .version import version_text

COMMANDS: Final = {
    "serve": "start the daemon: QMP on a socket, as qemu-storage-daemon",
    "system": "start the daemon with the command line of qemu-system-x86_64",
    "image": "create, look into, check, change and convert disk images, as qemu-img",
    "chain": "show, verify and restore a backup: an image and all below it",
    "qmp": "send one QMP command to a daemon and print its reply",
    "watch": "show the progress of a daemon's jobs",
    "diff": "send the same commands to blkxact and to a QEMU, and show what differs",
    "demo": "show an incremental backup transaction, from two new disks to their restore",
}
"""Each is served by ``cli.<name>``: ``configure(parser)`` and ``run(args) -> exit status``."""

STANDS_IN_FOR: Final = {"serve": "qemu-storage-daemon", "image": "qemu-img"}
"""Commands whose ``--version`` is laid out as that of a program of QEMU's."""


def main(words: Sequence[str] | None = None) -> int:
    """Run ``blkxact`` with ``words`` (default: those of the process); return the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    return run_command("blkxact", lambda: _run(words))


def _run(words: list[str]) -> int:
    called = next((word for word in words if not word.startswith("-")), None)
    if called is not None and called not in COMMANDS:
        raise CliError(f"there is no command '{called}'; there are {', '.join(COMMANDS)}")
    parser = _parser(called)
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return 1
    return cast("int", args.run(args))


def _parser(called: str | None) -> Parser:
    """Return the parser; only the called command's own options are filled in."""
    parser = Parser(
        prog="blkxact",
        description="QEMU's block layer without the virtual machine.",
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=PACKAGE)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == called:  # the others are not loaded
            _add_version(command, name)
            module = importlib.import_module(f".{name}", __package__)
            module.configure(command)
            command.set_defaults(run=module.run)
    return parser


def _add_version(parser: argparse.ArgumentParser, name: str) -> None:
    text = version_text(STANDS_IN_FOR[name]) if name in STANDS_IN_FOR else PACKAGE
    parser.add_argument(
        "-V", "--version", action="version", version=text, help="print the version and exit"
    )
