"""The commands of ``blkxact`` and the way their errors reach a person.

A command's module is imported only when it is called, so ``blkxact qmp`` does not pay for the block
layer.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from blkxact import PACKAGE
from blkxact.runtime import start

from .boundary import run_command
from .errors import CliError

if TYPE_CHECKING:
    import argparse

    from .parser import Parser

COMMANDS: Final = {
    "serve": "start the daemon: QMP on a socket, as qemu-storage-daemon",
    "system": "start the daemon with the command line of qemu-system-x86_64",
    "image": "create, look into, check, change and convert disk images, as qemu-img",
    "chain": "show, verify and restore a backup: an image and all below it",
    "qmp": "send one QMP command to a daemon and print its reply",
    "watch": "show the progress of a daemon's jobs",
    "diff": "send the same commands to blkxact and to a QEMU, and show what differs",
    "prove": "try every fault on a backup tool, and show whether it can lose data",
    "report": "make a page that shows what happened, from what serve --record kept",
    "shim": "make a directory in which QEMU's programs are blkxact's",
    "demo": "show an incremental backup transaction, from two new disks to their restore",
}
"""Each is served by ``cli.<name>``: ``configure(parser)`` and ``run(args) -> exit status``."""

QEMU_COMMAND_LINES: Final = frozenset({"serve", "system"})
"""Commands that read their words as a program of QEMU's: ``start(words, program, called)``."""

STANDS_IN_FOR: Final = {"image": "qemu-img"}
"""Commands whose ``--version`` is laid out as that of a program of QEMU's."""


def main(words: Sequence[str] | None = None, program: str = "blkxact") -> int:
    """Run ``blkxact`` with ``words`` (default: those of the process); return the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    return run_command(program, lambda: _run(words, program))


def _run(words: list[str], program: str) -> int:
    called = next((word for word in words if not word.startswith("-")), None)
    if called is not None and called not in COMMANDS:
        raise CliError(f"there is no command '{called}'; there are {', '.join(COMMANDS)}")
    if called in QEMU_COMMAND_LINES and words[0] == called:
        module = importlib.import_module(f".{called}", __package__)
        return cast("int", module.start(words[1:], program, f"{program} {called}"))
    return _run_parsed(words)


def _run_parsed(words: list[str]) -> int:
    parser = _parser()
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return 1
    start.end()
    return cast("int", args.run(args))


def _parser() -> Parser:
    """Return the parser; a command's own options are added when it is called."""
    import argparse  # noqa: PLC0415 - the daemons do without

    from .parser import Parser, add_commands  # noqa: PLC0415

    parser = Parser(
        prog="blkxact",
        description="QEMU's block layer without the virtual machine.",
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=PACKAGE)
    add = add_commands(parser, "command", "commands")
    for name, summary in COMMANDS.items():
        add(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            fill=partial(_fill, name),
        )
    return parser


def _fill(name: str, parser: Parser) -> None:
    """Add the options of a command that was called."""
    if name in QEMU_COMMAND_LINES:  # only seen here when other options came first
        return
    _add_version(parser, name)
    module = importlib.import_module(f".{name}", __package__)
    module.configure(parser)
    parser.set_defaults(run=module.run)


def _add_version(parser: argparse.ArgumentParser, name: str) -> None:
    from .parser import VersionAction  # noqa: PLC0415 - as above

    parser.add_argument(
        *("-V", "--version"),
        action=VersionAction,
        nargs=0,
        const=STANDS_IN_FOR.get(name),
        help="print the version and exit",
    )
