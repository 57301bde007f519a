"""Addresses of sockets, flat (SocketAddress) and wrapped (SocketAddressLegacy).

QEMU's counterpart: ``qapi/sockets.json``; vsock is not served.
"""

from __future__ import annotations

from typing import Annotated, Literal

from .common import Discriminator, Opt, QapiModel, UInt16, UInt32


class InetSocketAddress(QapiModel):
    """A TCP address."""

    host: str
    port: str
    """A port number or a service name."""
    numeric: bool = False
    to: Opt[UInt16] = None
    ipv4: Opt[bool] = None
    ipv6: Opt[bool] = None
    keep_alive: bool = False
    keep_alive_count: UInt32 = 0
    """Packets without an answer after which the connection is lost; 0 is the system's value."""
    keep_alive_idle: UInt32 = 0
    """Seconds of silence before the first packet; 0 is the system's value."""
    keep_alive_interval: UInt32 = 0
    """Seconds between packets; 0 is the system's value."""


class UnixSocketAddress(QapiModel):
    """A path of a Unix socket."""

    path: str
    abstract: bool = False
    tight: bool = True


class FdSocketAddress(QapiModel):
    """A connected or listening socket that ``getfd`` gave a name."""

    name: str

    @staticmethod
    def wire_name(attribute: str) -> str:
        """Return the QAPI name of an attribute; ``str`` would be a bad one for an attribute."""
        return "str" if attribute == "name" else attribute


class _InetTag(QapiModel):
    type: Literal["inet"]


class _UnixTag(QapiModel):
    type: Literal["unix"]


class _FdTag(QapiModel):
    type: Literal["fd"]


class InetSocketAddressFlat(InetSocketAddress, _InetTag):
    """A TCP address with its type."""


class UnixSocketAddressFlat(UnixSocketAddress, _UnixTag):
    """A Unix socket with its type."""


class FdSocketAddressFlat(FdSocketAddress, _FdTag):
    """A named socket with its type."""


SocketAddress = Annotated[
    InetSocketAddressFlat | UnixSocketAddressFlat | FdSocketAddressFlat, Discriminator("type")
]


class InetSocketAddressWrapper(QapiModel):
    """A TCP address in the old form."""

    type: Literal["inet"]
    data: InetSocketAddress


class UnixSocketAddressWrapper(QapiModel):
    """A Unix socket in the old form."""

    type: Literal["unix"]
    data: UnixSocketAddress


class FdSocketAddressWrapper(QapiModel):
    """A named socket in the old form."""

    type: Literal["fd"]
    data: FdSocketAddress


AnySocketAddress = InetSocketAddress | UnixSocketAddress | FdSocketAddress

SocketAddressLegacy = Annotated[
    InetSocketAddressWrapper | UnixSocketAddressWrapper | FdSocketAddressWrapper,
    Discriminator("type"),
]
