"""Addresses of sockets, flat (SocketAddress) and wrapped (SocketAddressLegacy).

QEMU's counterpart: ``qapi/sockets.json``; vsock and passed descriptors are not served.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator

from .common import Opt, QapiModel, UInt16


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


class UnixSocketAddress(QapiModel):
    """A path of a Unix socket."""

    path: str
    abstract: bool = False
    tight: bool = True


class _InetTag(QapiModel):
    type: Literal["inet"]


class _UnixTag(QapiModel):
    type: Literal["unix"]


class InetSocketAddressFlat(InetSocketAddress, _InetTag):
    """A TCP address with its type."""


class UnixSocketAddressFlat(UnixSocketAddress, _UnixTag):
    """A Unix socket with its type."""


SocketAddress = Annotated[InetSocketAddressFlat | UnixSocketAddressFlat, Discriminator("type")]


class InetSocketAddressWrapper(QapiModel):
    """A TCP address in the old form."""

    type: Literal["inet"]
    data: InetSocketAddress


class UnixSocketAddressWrapper(QapiModel):
    """A Unix socket in the old form."""

    type: Literal["unix"]
    data: UnixSocketAddress


SocketAddressLegacy = Annotated[
    InetSocketAddressWrapper | UnixSocketAddressWrapper, Discriminator("type")
]
