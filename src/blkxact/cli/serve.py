"""``blkxact serve``: the daemon, with qemu-storage-daemon's command line.

The words become a ``ServeOptions``, from which ``daemon.Daemon`` builds the emulator. What belongs
to the process is done here: the background, the log, and the PID file, which exists from the moment
clients can connect until the process ends.

QEMU's counterpart: ``storage-daemon/qemu-storage-daemon.c``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import logging
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

from blkxact.enums import ActionCompletionMode
from blkxact.options import SHUTDOWN_TIMEOUT_S, Chardev, MonitorOptions, ServeOptions

from .background import Background, PidFile
from .chardev import parse_chardev, parse_qmp
from .errors import CliError
from .members import (
    members_of,
    parse_blockdev,
    parse_export,
    parse_nbd_server,
    parse_object,
    parse_option,
)
from .serve_log import logging_to, open_log

T = TypeVar("T")

COMPLETION_MODES: Final = [mode.value for mode in ActionCompletionMode]

SWITCH_INTERVAL_S: Final = 0.0001
"""Seconds for which the loop may hold up a thread that copies.

Such a thread needs the interpreter for a moment between two system calls. With Python's 5 ms it
waited whenever the loop was busy: scattered copies were a tenth slower.
"""

MAX_SHUTDOWN_TIMEOUT_S: Final = 1e6

_log = logging.getLogger(__name__)

EPILOG: Final = """\
OPTIONS are name=value pairs with commas between, dotted for nested members
(file.filename=a.img), or one JSON object; they are those of qemu-storage-daemon.

example:
  blkxact serve --qmp /tmp/qmp.sock \\
      --blockdev qcow2,node-name=disk0,file.driver=file,file.filename=disk0.qcow2
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``serve``."""
    parser.epilog = EPILOG
    add = parser.add_argument
    many: dict[str, Any] = {"action": "append", "default": []}
    add("--blockdev", metavar="OPTIONS", help="add a block node, as blockdev-add", **many)
    add("--chardev", metavar="OPTIONS", help="a socket: socket,id=ID,path=PATH,server=on", **many)
    add("--monitor", metavar="OPTIONS", help="QMP on a chardev: [chardev=]ID[,pretty=on]", **many)
    add("--qmp", metavar="ADDRESS", help="short form of both: a path, or unix:PATH,server=on,"
        "wait=off, or tcp:HOST:PORT,server=on,wait=off", **many)  # fmt: skip
    add("--object", metavar="OPTIONS", help="add an object: TYPE,id=ID,...", **many)
    add("--nbd-server", metavar="OPTIONS", help="serve exports: addr.type=unix,addr.path=PATH",
        **many)  # fmt: skip
    add("--export", metavar="OPTIONS", help="export a node: nbd,id=ID,node-name=NODE,...", **many)
    add("--pidfile", metavar="PATH", help="write the process ID there; removed at the end")
    add("--daemonize", action="store_true", help="go to the background once clients can connect")
    add("--shutdown-timeout", metavar="SECONDS", type=_seconds, default=SHUTDOWN_TIMEOUT_S,
        help="at the end, cut the connection to a server that has not answered for so long; a"
        " second signal cuts it at once (default: %(default)g)")  # fmt: skip
    add("--default-completion-mode", choices=COMPLETION_MODES, default="individual",
        help="how transactions complete that do not say it (default: %(default)s)")  # fmt: skip
    add("-v", "--verbose", action="store_true",
        help="report each step of each transaction and why jobs fail, with the time")  # fmt: skip
    add("-D", "--log-file", metavar="FILE",
        help="append messages to FILE; without it they go to standard error")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serve until ``quit`` or a signal; 1 if not all was stored or a server was cut off."""
    options = serve_options(args)
    if not options.monitors and not options.exports:
        raise CliError(
            "no client could connect: neither a monitor (--qmp) nor an --export is given"
        )
    if args.daemonize and args.verbose and args.log_file is None:
        raise CliError("--daemonize with --verbose needs a --log-file")
    log = None if args.log_file is None else open_log(args.log_file)
    background = Background() if args.daemonize else None
    if background is not None and background.is_parent:
        return background.wait()

    def ready(addresses: list[str]) -> None:
        if background is not None:
            background.ready(log)
        for address in addresses:
            _log.info("listening for %s", address)

    with (
        logging_to(
            sys.stderr if log is None else log,
            times=args.verbose or log is not None,
            verbose=args.verbose,
        ),
        contextlib.nullcontext() if background is None else background.reporting(),
    ):
        return int(not serve(options, ready=ready))


def serve_options(args: argparse.Namespace) -> ServeOptions:
    """Return what the words ask for; raises ``CliError`` naming the option."""
    options = ServeOptions(
        blockdevs=[parse_option("--blockdev", text, parse_blockdev) for text in args.blockdev],
        objects=[parse_option("--object", text, parse_object) for text in args.object],
        nbd_servers=[parse_option("--nbd-server", t, parse_nbd_server) for t in args.nbd_server],
        exports=[parse_option("--export", text, parse_export) for text in args.export],
        pidfile=args.pidfile,
        shutdown_timeout_s=args.shutdown_timeout,
        verbose=args.verbose,
        default_completion_mode=ActionCompletionMode(args.default_completion_mode),
    )
    for text in args.chardev:
        add_chardev(options, parse_option("--chardev", text, parse_chardev))
    for text in args.monitor:
        options.monitors.append(
            parse_option("--monitor", text, functools.partial(parse_monitor, options=options))
        )
    for number, text in enumerate(args.qmp):
        chardev = parse_option("--qmp", text, functools.partial(parse_qmp, number=number))
        add_chardev(options, chardev)
        options.monitors.append(MonitorOptions(chardev.id))
    return options


def serve(options: ServeOptions, *, ready: Callable[[list[str]], None] | None = None) -> bool:
    """Run a daemon until it ends; return whether all was stored and no server cut off.

    ``ready`` is called when clients can connect, with ``Daemon.addresses``.
    """
    from blkxact.daemon import Daemon  # noqa: PLC0415 - 'serve --help' need not load all of it

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with contextlib.ExitStack() as stack:

        def on_ready() -> None:
            if options.pidfile is not None:
                stack.enter_context(PidFile(options.pidfile))
            gc.freeze()  # what is there now stays; a full collection holds up all clients
            if ready is not None:
                ready(daemon.addresses)

        daemon = Daemon(options, on_ready=on_ready)
        return asyncio.run(daemon.run())


def _seconds(text: str) -> float:
    """Return a length of time; raises ``argparse.ArgumentTypeError``."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_SHUTDOWN_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds")
    return seconds


def parse_monitor(text: str, options: ServeOptions) -> MonitorOptions:
    """Return the monitor on one of the chardevs in ``options``; raises ``CliError``."""
    members = members_of(text, "chardev")
    unknown = members.keys() - {"chardev", "id", "mode", "pretty"}
    if unknown:
        raise CliError(f"Parameter '{min(unknown)}' is unexpected")
    chardev = members.get("chardev")
    if chardev is None:
        raise CliError("Parameter 'chardev' is missing")
    if chardev not in options.chardevs:
        raise CliError(f'chardev "{chardev}" not found')
    if any(monitor.chardev == chardev for monitor in options.monitors):
        raise CliError(f"Device '{chardev}' is in use")
    if members.get("mode", "control") != "control":
        raise CliError("Only QMP is supported")
    pretty = members.get("pretty", False)
    if pretty not in ("on", "off", True, False):
        raise CliError("Parameter 'pretty' expects 'on' or 'off'")
    return MonitorOptions(chardev, members.get("id"), pretty=pretty in ("on", True))


def add_chardev(options: ServeOptions, chardev: Chardev) -> None:
    """Add a chardev; raises ``CliError`` if its id is taken."""
    if chardev.id in options.chardevs:
        raise CliError(f"Duplicate ID '{chardev.id}' for chardev")
    options.chardevs[chardev.id] = chardev
