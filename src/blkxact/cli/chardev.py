"""``-chardev`` and the short forms of ``-qmp`` and ``-monitor``: words to a ``Chardev``.

QEMU's counterpart: ``chardev/char.c``, ``chardev/char-socket.c`` (qemu_chr_parse_socket).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from blkxact.machine.option_groups import parameters
from blkxact.machine.options import (
    Address,
    Chardev,
    ChardevSocket,
    ChardevStdio,
    ChardevUnused,
    FdAddress,
    InetAddress,
    UnixAddress,
)
from blkxact.qapi.versions import has_option
from blkxact.runtime.release import DEFAULT_RELEASE, Release

from .errors import CliError
from .guest_members import SIZE_HINT, check_values, number_of
from .identifier import check_identifier
from .keyval import parse_opts, parse_switch

BACKENDS: Final = frozenset(
    {"socket", "stdio", "null"}
    | {"braille", "console", "file", "memory", "msmouse", "mux", "parallel", "pipe", "pty"}
    | {"qemu-vdagent", "ringbuf", "serial", "spiceport", "spicevmc", "testdev", "udp", "vc"}
    | {"wctablet", "parport", "tty"}
)
_NOT_HERE: Final = ("telnet", "tn3270", "websocket", "tls-creds", "abstract")
"""What a socket may have in QEMU and cannot have here."""
_NAMED: Final = {"file": "filename", "pipe": "device path"}
"""Backends that need a path, and what QEMU calls it."""
_BARE: Final = frozenset({"null", "pty", "msmouse", "wctablet", "braille", "testdev", "stdio"})
"""Short forms that are the name of a backend and nothing else."""
_INET: Final = re.compile(r"(?P<host>\[[^]]*\]|[^:]*):(?P<port>[^,]+)")


def parse_chardev(text: str, release: Release = DEFAULT_RELEASE) -> Chardev:
    """Return the chardev that ``text`` describes to a release; raises ``CliError``."""
    options = parse_opts(text, implied_key="backend")
    ident = options.get("id")
    if ident is not None:
        check_identifier(ident)
    _check_members(options, release)
    if ident is None:
        raise CliError("chardev: no id specified")
    backend = options.get("backend")
    if backend is None:
        raise CliError(f'chardev: "{ident}" missing backend')
    if backend not in BACKENDS:
        raise CliError(f"'{backend}' is not a valid char driver name")
    if backend == "stdio":
        return ChardevStdio(ident)
    if backend == "ringbuf":
        _check_ring(options.get("size", "64k"))
    if backend in _NAMED and "path" not in options:
        raise CliError(f"chardev: {backend}: no {_NAMED[backend]} given")
    if backend != "socket":
        return ChardevUnused(ident, backend)
    return _socket(ident, options, release)


def parse_short(text: str, ident: str, release: Release = DEFAULT_RELEASE) -> Chardev:
    """Return the chardev of a short form (``unix:PATH,...``, ``tcp:HOST:PORT,...``, ``stdio``).

    Raises ``CliError`` with two lines, as QEMU does.
    """
    form = text.removeprefix("mon:")
    if form in _BARE:
        return ChardevStdio(ident) if form == "stdio" else ChardevUnused(ident, form)
    scheme, colon, rest = form.partition(":")
    options: dict[str, str] | None = None
    if scheme == "vc" or (colon and scheme in ("file", "pipe", "con")) or form.startswith("/dev/"):
        return ChardevUnused(ident, scheme)
    if colon and scheme == "unix":
        options = parse_opts(rest, implied_key="path")
    elif colon and scheme in ("tcp", "telnet", "websocket", "tn3270"):
        options = _inet(rest)
        if options is not None and scheme != "tcp":
            options[scheme] = "on"
    elif colon and scheme == "udp":
        if _INET.match(rest):
            return ChardevUnused(ident, scheme)
    else:
        raise CliError(f"parse error: {text}", earlier=f"'{form}' is not a valid char driver")
    if options is None:
        raise CliError(f"parse error: {text}")
    try:
        _check_members(options, release)
    except CliError as error:
        raise CliError(f"parse error: {text}", earlier=str(error)) from error
    return _socket(ident, options, release)


def _inet(text: str) -> dict[str, str] | None:
    found = _INET.match(text)
    if found is None:
        return None
    options = parse_opts(text[found.end() :].removeprefix(","))
    host = found["host"].removeprefix("[").removesuffix("]")
    return {**options, "host": host, "port": found["port"]}


def _check_members(options: Mapping[str, str], release: Release) -> None:
    known = parameters("chardev", release)
    for name in options:
        if name not in known and name != "id":
            raise CliError(f"Invalid parameter '{name}'")
    check_values("chardev", options)


def _check_ring(text: str) -> None:
    from blkxact.qapi.sizes import parse_size  # noqa: PLC0415 - it loads fractions

    size = parse_size(text)
    if size is None:
        raise CliError("Parameter 'size' expects a non-negative number below 2^64", hint=SIZE_HINT)
    if size.bit_count() > 1:
        raise CliError("size of ringbuf chardev must be power of two")


def _socket(ident: str, options: Mapping[str, str], release: Release) -> ChardevSocket:
    def switch(name: str, *, default: bool) -> bool:
        return parse_switch(name, options[name]) if name in options else default

    for name in _NOT_HERE:
        if options.get(name, "off") not in ("off", "no", "false", "n"):
            raise CliError(f"chardev: socket: '{name}' is not supported")
    address = _address(options)
    server = switch("server", default=False)
    reconnect_s = _reconnect(options, address, server=server, release=release)
    if "wait" in options and not server:
        raise CliError("'wait' option is incompatible with socket in client connect mode")
    return ChardevSocket(
        ident,
        address,
        server=server,
        wait=switch("wait", default=server),
        reconnect_s=0 if server else reconnect_s,
    )


def _reconnect(
    options: Mapping[str, str], address: Address, *, server: bool, release: Release
) -> float:
    """Return the seconds between two tries to connect; 0: there is only one. ``CliError``.

    Releases that have both options do not look where ``reconnect-ms`` is.
    """
    both = [name for name in ("reconnect", "reconnect-ms") if name in options]
    if len(both) > 1:
        raise CliError("'reconnect' and 'reconnect-ms' are mutually exclusive")
    if not both:
        return 0
    (name,) = both
    if name == "reconnect" or not has_option("chardev.reconnect", release):
        if isinstance(address, FdAddress):
            raise CliError(f"'{name}' option is incompatible with 'fd' address type")
        if server:
            raise CliError(f"'{name}' option is incompatible with socket in server listen mode")
    return max(0, number_of(options[name])) / (1 if name == "reconnect" else 1000)


def _address(options: Mapping[str, str]) -> Address:
    if sum(name in options for name in ("path", "fd", "host")) > 1:
        raise CliError("None or one of 'path', 'fd' or 'host' option required.")
    if "path" in options:
        return UnixAddress(options["path"])
    if "host" in options:
        if "port" not in options:
            raise CliError("chardev: socket: no port given")
        families = {
            name: parse_switch(name, options[name]) for name in ("ipv4", "ipv6") if name in options
        }
        to = int(options["to"]) if options.get("to", "").isdecimal() else None
        return InetAddress(
            options["host"] or "127.0.0.1",
            options["port"],
            to,
            families.get("ipv4"),
            families.get("ipv6"),
        )
    if not options.get("fd", "").isdecimal():
        raise CliError(f"Unable to parse FD number {options.get('fd', '')}")
    return FdAddress(int(options["fd"]))
