"""``--chardev socket,...`` and the short form ``--qmp``: words to ``ChardevSocket``.

A value is a list of ``name=value`` with commas between; a doubled comma is one comma of the value.
``server`` and ``nowait`` may stand alone, as older scripts write them.

QEMU's counterpart: ``util/qemu-option.c`` (QemuOpts) and ``chardev/char-socket.c``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from blkxact.options import Address, ChardevSocket, InetAddress, UnixAddress

from .errors import CliError

_MEMBERS: Final = frozenset({"backend", "id", "path", "host", "port", "server", "wait"})
_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_QMP_CHARDEV_ID: Final = "compat_monitor{}"
"""QEMU's name for the chardev behind ``-qmp``."""


def parse_chardev(text: str) -> ChardevSocket:
    """Return the socket that ``text`` describes; raises ``CliError``."""
    options = split_options(text, implied="backend")
    ident = options.get("id")
    if ident is None:
        raise CliError("chardev: no id specified")
    if not _IDENTIFIER.fullmatch(ident):
        raise CliError("Parameter 'id' expects an identifier")
    backend = options.get("backend")
    if backend is None:
        raise CliError(f'chardev: "{ident}" missing backend')
    if backend != "socket":
        raise CliError(f"'{backend}' is not a supported char driver name; there is 'socket'")
    return _socket(ident, options)


def parse_qmp(text: str, number: int) -> ChardevSocket:
    """Return the socket of the ``number``-th ``--qmp``.

    ``unix:PATH`` and ``tcp:HOST:PORT`` take ``server`` and ``wait`` as ``--chardev`` does; a bare
    path is a Unix socket to listen on without waiting.
    """
    head, *rest = split_words(text)
    options = _by_name(rest, implied=None)
    scheme, colon, place = head.partition(":")
    if colon and scheme == "unix":
        options["path"] = place
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


def split_options(text: str, *, implied: str) -> dict[str, str]:
    """Return the members of ``text``; the first word may lack its name, which is ``implied``."""
    return _by_name(split_words(text), implied=implied)


def split_words(text: str) -> list[str]:
    """Split at single commas; a doubled one becomes one."""
    words = []
    word = ""
    position = 0
    while position < len(text):
        if text.startswith(",,", position):
            word += ","
            position += 2
        elif text[position] == ",":
            words.append(word)
            word = ""
            position += 1
        else:
            word += text[position]
            position += 1
    words.append(word)
    return words


def _by_name(words: list[str], *, implied: str | None) -> dict[str, str]:
    options = {}
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not equals:
            name, value = _bare(word) if index or implied is None else (implied, word)
        if name not in _MEMBERS:
            raise CliError(f"Invalid parameter '{name}'")
        options[name] = value
    return options


def _bare(word: str) -> tuple[str, str]:
    """Return name and value of an option without ``=``: ``server`` or ``nowait``."""
    if word in _MEMBERS:
        return word, "on"
    if word.startswith("no"):
        return word[2:], "off"
    return word, "on"


def _socket(ident: str, options: Mapping[str, str]) -> ChardevSocket:
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
    if not port.isdecimal() or int(port) > 65535:
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
