"""Which export of which server: BlockdevOptionsNbd, and the names that stand for it.

Names are ``nbd[+tcp]://HOST[:PORT]/EXPORT``, ``nbd+unix:///EXPORT?socket=PATH`` and the older
``nbd:unix:PATH:exportname=EXPORT`` and ``nbd:HOST:PORT:exportname=EXPORT``.

QEMU's counterpart: ``nbd_parse_filename``, ``nbd_process_options`` and ``nbd_refresh_filename`` in
``block/nbd.c``; ``inet_parse`` in ``util/qemu-sockets.c``. The words of errors are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from blkxact.errors import QmpError
from blkxact.nbd.protocol import DEFAULT_PORT, MAX_STRING, pack_text
from blkxact.qapi.blockdev import BlockdevOptionsNbd
from blkxact.qapi.sockets import InetSocketAddress, UnixSocketAddress
from blkxact.qapi.validation import validate_keyval
from blkxact.storage.api import SocketAddress

_EXPORT_NAME: Final = ":exportname="
_LEGACY: Final = ("path", "host", "port")
_INET: Final = re.compile(
    r"(?:\[([^\]]{1,64})\]|([^:\[][^:]{0,63})|):([^,]{1,32})(?:,.*)?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class NbdOptions:
    """What a node of this driver was told. Times are seconds."""

    server: SocketAddress
    export: str | None = None
    tls_creds: str | None = None
    tls_hostname: str | None = None
    x_dirty_bitmap: str | None = None
    reconnect_delay: int = 0
    open_timeout: int = 0

    @property
    def hostname(self) -> str | None:
        """The name that the server's certificate must have."""
        if self.tls_hostname is None and isinstance(self.server, InetSocketAddress):
            return self.server.host
        return self.tls_hostname

    @property
    def filename(self) -> str:
        """The short name for the same export, or "" if there is none."""
        server, export = self.server, self.export
        if isinstance(server, UnixSocketAddress):
            path = "" if export is None else f"/{export}"
            return f"nbd+unix://{path}?socket={server.path}"
        if server.ipv4 is not None or server.ipv6 is not None or server.to is not None:
            return ""
        path = "" if export is None else f"/{export}"
        return f"nbd://{server.host}:{server.port}{path}"


def read_options(options: Mapping[str, Any]) -> NbdOptions:
    """Return the members of BlockdevOptionsNbd, which may be texts. Raises ``QmpError``.

    ``path``, ``host`` and ``port`` stand for ``server``, as they did before there was such a thing.
    """
    members = {name: value for name, value in options.items() if name not in _LEGACY}
    server = _legacy_server(options)
    if server is not None:
        if "server" in members:
            raise QmpError("Cannot use 'server' and path/host/port at the same time")
        members["server"] = server
    if not members.get("server"):
        raise QmpError("NBD server address missing")
    given = validate_keyval(BlockdevOptionsNbd, {**members, "driver": "nbd"})
    export = given.export if "export" in given.model_fields_set else None
    if export is not None and len(pack_text(export)) > MAX_STRING:
        raise QmpError("export name too long to send to server")
    if given.x_dirty_bitmap is not None and len(pack_text(given.x_dirty_bitmap)) > MAX_STRING:
        raise QmpError("x-dirty-bitmap query too long to send to server")
    return NbdOptions(
        server=given.server,
        export=export,
        tls_creds=given.tls_creds,
        tls_hostname=given.tls_hostname,
        x_dirty_bitmap=given.x_dirty_bitmap,
        reconnect_delay=given.reconnect_delay,
        open_timeout=given.open_timeout,
    )


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
