"""The commands of ``blkxact`` and the way their errors reach a person.

A command's room is imported only when it is called, so ``blkxact qmp`` does not pay for the block
layer.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, cast

from blkxact import PACKAGE
from blkxact.errors import QmpError

from .errors import CliError
from .parser import Parser

COMMANDS: Final = {
    "serve": "start the daemon: QMP on a socket, as qemu-storage-daemon",
    "system": "start the daemon with the command line of qemu-system-x86_64",
    "image": "create, look into, check, change and convert disk images, as qemu-img",
    "chain": "show, verify and restore a backup: an image and all below it",
    "qmp": "send one QMP command to a daemon and print its reply",
    "watch": "show the progress of a daemon's jobs",
    "demo": "show an incremental backup transaction, from two new disks to their restore",
}
"""Each is served by ``cli.<name>``: ``configure(parser)`` and ``run(args) -> exit status``."""

STATUS_INTERRUPTED: Final = 130
STATUS_INTERNAL_ERROR: Final = 70
DEBUG_VARIABLE: Final = "BLKXACT_DEBUG"
"""Environment variable; set to anything, an error that should not be shows its traceback."""


def main(words: Sequence[str] | None = None) -> int:
    """Run ``blkxact`` with ``words`` (default: those of the process); return the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _run(words)
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough of it; keep the interpreter from flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CliError, QmpError, OSError) as error:
        print(f"blkxact: {_describe(error)}", file=sys.stderr)
        return error.status if isinstance(error, CliError) else 1
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        print(
            f"blkxact: internal error: {type(error).__name__}: {_describe(error)}"
            f" ({DEBUG_VARIABLE}=1 shows where)",
            file=sys.stderr,
        )
        return STATUS_INTERNAL_ERROR


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
            room = importlib.import_module(f".{name}", __package__)
            room.configure(command)
            command.set_defaults(run=room.run)
    return parser


def _describe(error: Exception) -> str:
    """Return the error as one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.splitlines()) or type(error).__name__
