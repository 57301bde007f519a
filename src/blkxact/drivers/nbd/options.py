"""Which export of which server: BlockdevOptionsNbd, and the names that stand for it.

Names are ``nbd[+tcp]://HOST[:PORT]/EXPORT``, ``nbd+unix:///EXPORT?socket=PATH`` and the older
``nbd:unix:PATH:exportname=EXPORT`` and ``nbd:HOST:PORT:exportname=EXPORT``.

QEMU's counterpart: ``nbd_parse_filename``, ``nbd_process_options`` and ``nbd_refresh_filename`` in
``block/nbd.c``; ``inet_parse`` in ``util/qemu-sockets.c``. The words of errors are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from blkxact.errors import QmpError
from blkxact.nbd.protocol import DEFAULT_PORT, MAX_STRING, pack_text
from blkxact.qapi.blockdev import BlockdevOptionsNbd
from blkxact.qapi.sockets import FdSocketAddress, InetSocketAddress, UnixSocketAddress

_EXPORT_NAME: Final = ":exportname="
_LEGACY: Final = ("path", "host", "port")
_INET: Final = re.compile(
    r"(?:\[([^\]]{1,64})\]|([^:\[][^:]{0,63})|):([^,]{1,32})(?:,.*)?", re.DOTALL
)


def tls_name(options: BlockdevOptionsNbd) -> str | None:
    """Return the name that the server's certificate must have."""
    if options.tls_hostname is None and isinstance(options.server, InetSocketAddress):
        return options.server.host
    return options.tls_hostname


def short_name(options: BlockdevOptionsNbd) -> str:
    """Return the short name for the same export, or "" if there is none."""
    server = options.server
    path = f"/{options.export}" if "export" in options.given else ""
    if isinstance(server, UnixSocketAddress):
        return f"nbd+unix://{path}?socket={server.path}"
    if isinstance(server, FdSocketAddress):
        return ""
    if server.ipv4 is not None or server.ipv6 is not None or server.to is not None:
        return ""
    return f"nbd://{server.host}:{server.port}{path}"


def check_lengths(options: BlockdevOptionsNbd) -> None:
    """Raise ``QmpError`` for texts that are too long to be sent."""
    if len(pack_text(options.export)) > MAX_STRING:
        raise QmpError("export name too long to send to server")
    if options.x_dirty_bitmap is not None and len(pack_text(options.x_dirty_bitmap)) > MAX_STRING:
        raise QmpError("x-dirty-bitmap query too long to send to server")


def with_server(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of BlockdevOptionsNbd with ``server``; raises ``QmpError``.

    ``path``, ``host`` and ``port`` stand for it, as they did before there was such a thing.
    """
    result = {name: value for name, value in members.items() if name not in _LEGACY}
    server = _legacy_server(members)
    if server is not None:
        if "server" in result:
            raise QmpError("Cannot use 'server' and path/host/port at the same time")
        result["server"] = server
    if not result.get("server"):
        raise QmpError("NBD server address missing")
    return result


def _legacy_server(options: Mapping[str, Any]) -> dict[str, Any] | None:
    path, host, port = (options.get(name) for name in _LEGACY)
    if path is not None:
        if host is not None:
            raise QmpError("path and host may not be used at the same time")
        if port is not None:
            raise QmpError("port may not be used without host")
        return {"type": "unix", "path": path}
    if host is not None:
        return {"type": "inet", "host": host, "port": port or str(DEFAULT_PORT)}
    return None


def modern(members: Any) -> Any:
    """Return options, children and all, in which ``server`` stands for its older members."""
    if not isinstance(members, dict):
        return members
    result = {name: modern(value) for name, value in members.items()}
    if result.get("driver") == "nbd":
        server = _legacy_server(result)
        if server is not None and "server" not in result:
            result = {name: value for name, value in result.items() if name not in _LEGACY}
            result["server"] = server
    return result


def parse_name(filename: str) -> dict[str, Any]:
    """Return the BlockdevOptions that a name stands for; raises ``QmpError``."""
    options = _parse_uri(filename) if "://" in filename else _parse_old_name(filename)
    return {"driver": "nbd", **options}


def _parse_uri(filename: str) -> dict[str, Any]:
    wrong = QmpError("No valid URL specified")
    try:
        uri = urlsplit(filename)
        port = uri.port
    except ValueError:
        raise wrong from None
    export = unquote(uri.path.removeprefix("/"), errors="surrogateescape")
    options: dict[str, Any] = {"export": export} if export else {}
    query = parse_qsl(uri.query, keep_blank_values=True, errors="surrogateescape")
    if uri.scheme == "nbd+unix":
        if uri.netloc or len(query) != 1 or query[0][0] != "socket":
            raise wrong
        options["server"] = {"type": "unix", "path": query[0][1]}
        return options
    if query or not uri.hostname:
        raise wrong
    host = uri.netloc.rpartition("@")[2]
    host = host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
    options["server"] = {"type": "inet", "host": host, "port": str(port or DEFAULT_PORT)}
    return options


def _parse_old_name(filename: str) -> dict[str, Any]:
    name, found, export = filename.partition(_EXPORT_NAME)
    if found and not export:
        return {}
    options: dict[str, Any] = {"export": export} if found else {}
    if not name.startswith("nbd:"):
        raise QmpError("File name string for NBD must start with 'nbd:'")
    where = name.removeprefix("nbd:")
    if where.startswith("unix:"):
        options["server"] = {"type": "unix", "path": where.removeprefix("unix:")}
    elif where:
        options["server"] = _parse_inet(where)
    return options


def _parse_inet(text: str) -> dict[str, Any]:
    """Return the InetSocketAddress that ``HOST:PORT[,...]`` stands for; the rest means nothing."""
    found = _INET.fullmatch(text)
    if found is None:
        what = {":": "port in address", "[": "IPv6 address"}.get(text[0], "address")
        raise QmpError(f"error parsing {what} '{text}'")
    six, host, port = found.groups()
    return {"type": "inet", "host": six or host or "", "port": port}
