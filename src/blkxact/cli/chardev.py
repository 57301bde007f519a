"""``--chardev socket,...`` and the short form ``--qmp``: words to ``ChardevSocket``.

QEMU's counterpart: ``chardev/char-socket.c``, and ``chardev/char.c`` for the short form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from blkxact.options import (
    Address,
    Chardev,
    ChardevSocket,
    ChardevStdio,
    FdAddress,
    InetAddress,
    UnixAddress,
)

from .errors import CliError
from .keyval import parse_opts

MAX_PORT: Final = 65535
_MEMBERS: Final = frozenset({"backend", "id", "path", "host", "port", "fd", "server", "wait"})
_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_QMP_CHARDEV_ID: Final = "compat_monitor{}"
"""QEMU's name for the chardev behind ``-qmp``."""


def parse_chardev(text: str) -> Chardev:
    """Return the socket that ``text`` describes; raises ``CliError``."""
    options = parse_opts(text, implied_key="backend")
    ident = options.get("id")
    if ident is None:
        raise CliError("chardev: no id specified")
    if not _IDENTIFIER.fullmatch(ident):
        raise CliError("Parameter 'id' expects an identifier")
    backend = options.get("backend")
    if backend is None:
        raise CliError(f'chardev: "{ident}" missing backend')
    if backend == "stdio":
        return ChardevStdio(ident)
    if backend != "socket":
        raise CliError(
            f"'{backend}' is not a supported char driver name; there are 'socket' and 'stdio'"
        )
    return _socket(ident, options)


def parse_qmp(text: str, number: int) -> ChardevSocket:
    """Return the socket of the ``number``-th ``--qmp``.

    ``unix:PATH`` and ``tcp:HOST:PORT`` take ``server`` and ``wait`` as ``--chardev`` does; a bare
    path is a Unix socket to listen on without waiting.
    """
    options = parse_opts(f"address={text}")
    head = options.pop("address")
    scheme, colon, place = head.partition(":")
    if colon and scheme == "unix":
        options["path"] = place.removeprefix("path=")
    elif colon and scheme == "tcp":
        host, colon, port = place.rpartition(":")
        if not colon:
            raise CliError(f"'{head}': tcp:HOST:PORT is expected")
        options["host"], options["port"] = host.removeprefix("[").removesuffix("]"), port
    elif colon and "/" not in scheme:
        raise CliError(f"'{head}': unix:PATH, tcp:HOST:PORT or a path is expected")
    else:
        options = {"server": "on", "wait": "off", **options, "path": head}
    return _socket(_QMP_CHARDEV_ID.format(number), options)


def _socket(ident: str, options: Mapping[str, str]) -> ChardevSocket:
    unknown = options.keys() - _MEMBERS
    if unknown:
        raise CliError(f"Invalid parameter '{min(unknown)}'")
    server = _switch(options, "server", default=False)
    if "wait" in options and not server:
        raise CliError("'wait' option is incompatible with socket in client connect mode")
    return ChardevSocket(
        id=ident,
        address=_address(options),
        server=server,
        wait=_switch(options, "wait", default=server),
    )


def _address(options: Mapping[str, str]) -> Address:
    if "fd" in options:
        if not options["fd"].isdecimal():
            raise CliError(f"chardev: socket: '{options['fd']}' is not a file descriptor")
        return FdAddress(int(options["fd"]))
    if "path" in options:
        if "host" in options or "port" in options:
            raise CliError("chardev: socket: 'path' and 'host' exclude each other")
        if not options["path"]:
            raise CliError("chardev: socket: no path given")
        return UnixAddress(options["path"])
    if "host" not in options and "port" not in options:
        raise CliError("chardev: socket: no path and no port given")
    if "port" not in options:
        raise CliError("chardev: socket: no port given")
    port = options["port"]
    if not port.isdecimal() or int(port) > MAX_PORT:
        raise CliError(f"chardev: socket: '{port}' is not a port number")
    return InetAddress(options.get("host") or "127.0.0.1", int(port))


def _switch(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = options.get(name)
    if value is None:
        return default
    if value in ("on", "yes", "true", "y"):
        return True
    if value in ("off", "no", "false", "n"):
        return False
    raise CliError(f"Parameter '{name}' expects 'on' or 'off'")
