"""``blkxact serve`` and ``blkxact-storage-daemon``: qemu-storage-daemon's command line.

As there, the words are gone through twice: what concerns the process comes first, then the rest is
made in the order in which it is given.

QEMU's counterpart: ``storage-daemon/qemu-storage-daemon.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from blkxact.enums import ActionCompletionMode
from blkxact.machine.options import (
    Chardev,
    ChardevSocket,
    CommandSet,
    MonitorOptions,
    ServeOptions,
    UnixAddress,
)

from .boundary import run_command
from .chardev import parse_chardev, parse_short
from .emulate import check_release, default_release
from .errors import CliError
from .getopt import Found, find_options
from .members import parse_blockdev, parse_export, parse_nbd_server, parse_object, parse_option
from .monitor import parse_monitor
from .process import run_daemon
from .record_options import parse_record_limit
from .system_help import help_for
from .version import version_text

COMPLETION_MODES: Final = [mode.value for mode in ActionCompletionMode]
MAX_SHUTDOWN_TIMEOUT_S: Final = 1e6

_OPTIONS: Final = {
    "blockdev": True,
    "chardev": True,
    "daemonize": False,
    "export": True,
    "help": False,
    "monitor": True,
    "nbd-server": True,
    "object": True,
    "pidfile": True,
    "trace": True,
    "version": False,
    # blkxact's own
    "qmp": True,
    "emulate": True,
    "shutdown-timeout": True,
    "default-completion-mode": True,
    "testing": False,
    "testing-power": False,
    "verbose": False,
    "log-file": True,
    "record": True,
    "record-limit": True,
}
_LETTERS: Final = {"h": "help", "T": "trace", "V": "version", "v": "verbose", "D": "log-file"}

HELP: Final = """\
usage: {program} [options]

Serve block nodes: QMP and NBD on sockets, with qemu-storage-daemon's command line.

  -h, --help             print this help and exit
  -V, --version          print the version and exit
  -T, --trace PATTERN    accepted, and ignored

  --blockdev [driver=]DRIVER,node-name=NODE[,...]
                         add a block node, as blockdev-add
  --chardev socket,id=ID,path=PATH[,server=on][,wait=off]
  --chardev socket,id=ID,host=HOST,port=PORT[,server=on][,wait=off]
  --chardev socket,id=ID,fd=N[,server=on][,wait=off]
  --chardev socket,id=ID,path=PATH,reconnect=SECONDS
                         a socket for a monitor
  --monitor [chardev=]ID[,mode=control][,pretty=on]
                         QMP on a chardev
  --object TYPE,id=ID[,...]
                         add an object, as object-add
  --nbd-server addr.type=unix,addr.path=PATH[,tls-creds=ID][,max-connections=N]
  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,...]
                         serve exports
  --export [type=]nbd,id=ID,node-name=NODE[,name=NAME][,writable=on][,...]
                         export a node, as block-export-add
  --daemonize            go to the background once clients can connect
  --pidfile FILE         write the process ID there; removed at the end

Options that only blkxact has:
  --qmp ADDRESS          chardev and monitor in one: a path, or unix:PATH,server=on,wait=off,
                         or tcp:HOST:PORT,server=on,wait=off
  --emulate VERSION      be this QEMU: {releases}
  --default-completion-mode MODE
                         how transactions complete that do not say it: {modes}
  --shutdown-timeout SECONDS
                         at the end, cut the connection to a server that has not answered for so
                         long (default 30); a second signal cuts it at once
  --testing              let clients order faults, pauses and time (x-blkxact-*), for tests
  --testing-power        the same, and power failures; files are not really flushed
  -v, --verbose          report each step of each transaction and why jobs fail, with the time
  -D, --log-file FILE    append messages to FILE instead of writing them to standard error
  --record FILE          append what happens to FILE, for blkxact report
  --record-limit SIZE    the size at which that file ends (default 256M)

Values are name=value pairs with commas between, dotted for nested members (file.filename=a.img),
or one JSON object. They are made in the order in which they are given.

example:
  {program} --qmp /tmp/qmp.sock \\
      --blockdev qcow2,node-name=disk0,file.driver=file,file.filename=disk0.qcow2
"""


def main(words: Sequence[str], program: str) -> int:
    """Run as a program of its own, which calls itself ``program`` in messages."""
    return run_command(program, lambda: start(words, program))


def start(words: Sequence[str], program: str, called: str | None = None) -> int:
    """Serve until ``quit`` or a signal; 1 if not all was stored or a server was cut off.

    ``called`` is how a person starts it, for ``--help``.
    """
    options = ServeOptions(
        program=program,
        release=default_release(),
        announce=called is not None,
        command_set=CommandSet.ALL if called is not None else CommandSet.STORAGE_DAEMON,
    )
    answer = read_words(words, options, called or program)
    if answer is not None:
        print(answer.rstrip("\n"))
        return 0
    if options.daemonize and options.verbose and options.log_file is None:
        raise CliError("--daemonize with --verbose needs a --log-file")
    if options.announce and not options.of("monitor", "export"):
        raise CliError(
            "no client could connect: neither a monitor (--qmp) nor an --export is given"
        )
    return int(not run_daemon(options))


def read_words(words: Sequence[str], options: ServeOptions, called: str) -> str | None:
    """Put what the words ask for into ``options``, or return the answer to a question.

    Raises ``CliError`` naming the option.
    """
    answer = _concerning_the_process(words, options, called)
    return _things_to_make(words, options) if answer is None else answer


def _completion_mode(text: str) -> ActionCompletionMode:
    if text not in COMPLETION_MODES:
        raise CliError(f"there are {', '.join(COMPLETION_MODES)}")
    return ActionCompletionMode(text)


def _seconds(text: str) -> float:
    """Return a length of time; raises ``CliError``."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_SHUTDOWN_TIMEOUT_S:
        raise CliError(f"'{text}' is not a number of seconds")
    return seconds


_OF_THE_PROCESS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "daemonize": ("daemonize", lambda _text: True),
    "pidfile": ("pidfile", str),
    "testing": ("testing", lambda _text: True),
    "testing-power": ("testing_power", lambda _text: True),
    "verbose": ("verbose", lambda _text: True),
    "log-file": ("log_file", str),
    "record": ("record", str),
    "record-limit": ("record_limit", parse_record_limit),
    "emulate": ("release", check_release),
    "shutdown-timeout": ("shutdown_timeout_s", _seconds),
    "default-completion-mode": ("default_completion_mode", _completion_mode),
}
"""Option to the attribute of ``ServeOptions`` that it sets, and what reads its value."""


def _concerning_the_process(words: Sequence[str], options: ServeOptions, called: str) -> str | None:
    """Take the options that concern the process; return the answer to a question."""
    for found in find_options(words, _OPTIONS, _LETTERS):
        if found.name == "help":
            return _help(called)
        if found.name == "version":
            return version_text("qemu-storage-daemon", options.release)
        if found.name in _OF_THE_PROCESS:
            attribute, parse = _OF_THE_PROCESS[found.name]
            setattr(options, attribute, parse_option(f"--{found.name}", found.value, parse))
    return None


def _help(called: str) -> str:
    from blkxact.runtime.release import RELEASES  # noqa: PLC0415 - only for this text

    return HELP.format(
        program=called, releases=", ".join(RELEASES), modes=", ".join(COMPLETION_MODES)
    ).rstrip("\n")


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "blockdev": parse_blockdev,
    "chardev": parse_chardev,
    "monitor": parse_monitor,
    "object": parse_object,
    "nbd-server": parse_nbd_server,
    "export": parse_export,
}


def _things_to_make(words: Sequence[str], options: ServeOptions) -> str | None:
    monitors = 0
    for found in find_options(words, _OPTIONS, _LETTERS):
        if not found.name:
            raise CliError(f"{found.value}: Unexpected argument")
        if found.name == "qmp":
            _add_qmp(found, options, monitors)
            monitors += 1
        elif found.name in ("chardev", "object") and found.value in ("help", "?"):
            return help_for(found.name, found.value, found.where)
        elif found.name in _PARSERS:
            option = found.where.removesuffix(found.value).rstrip("= ")
            parse = _PARSERS[found.name]
            if found.name == "chardev":
                parse = partial(parse_chardev, release=options.release)
            value = parse_option(option, found.value, parse)
            options.add(found.name, value, found.where)  # type: ignore[arg-type]
    return None


def _add_qmp(found: Found, options: ServeOptions, number: int) -> None:
    ident = f"compat_monitor{number}"
    chardev = parse_option("--qmp", found.value, lambda text: parse_qmp(text, ident))
    options.add("chardev", chardev, found.where)
    options.add("monitor", MonitorOptions(ident), found.where)


def parse_qmp(text: str, ident: str) -> Chardev:
    """Return the chardev of ``--qmp``: QEMU's short form, or a path to listen at."""
    if text.startswith(("unix:", "tcp:")):
        return parse_short(text, ident)
    if ":" in text and "/" not in text.partition(":")[0]:
        raise CliError(f"'{text}': unix:PATH, tcp:HOST:PORT or a path is expected")
    return ChardevSocket(ident, UnixAddress(text.replace(",,", ",")), server=True, wait=False)
