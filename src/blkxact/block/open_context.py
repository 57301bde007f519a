"""The environment of one emulator's nodes, and how one of them is to be opened."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from blkxact.errors import QmpError
from blkxact.runtime.clock import Clock
from blkxact.runtime.release import DEFAULT_RELEASE, Release
from blkxact.runtime.throttle.group import ThrottleGroups
from blkxact.storage.api import Network, Storage

if TYPE_CHECKING:
    import random

    from .corruption import Corruption, Emit
    from .graph import Graph

TlsClient: TypeAlias = "Callable[[str], ssl.SSLContext]"
"""From the id of client credentials to what encrypts with them; raises ``QmpError``."""


def _no_credentials(name: str) -> ssl.SSLContext:
    raise QmpError(f"No TLS credentials with id '{name}'")


class Environment(NamedTuple):
    """Everything outside of a node that opening and running it needs.

    Made by the owner of the graph, and passed unchanged to all drivers.
    """

    graph: Graph
    """The nodes, their bitmaps, fault points and connections that can be cut (``yank``)."""
    storage: Storage
    clock: Clock
    random: random.Random
    throttle_groups: ThrottleGroups
    network: Network
    """Where connections to servers come from."""
    tls_client: TlsClient = _no_credentials
    emit: Emit = lambda _event, _data: None
    """Sends an event."""
    release: Release = DEFAULT_RELEASE
    """The release of QEMU that the emulator is."""
    no_io: bool = False
    """Images are opened only for what they say of themselves; no disk is read or written
    (BDRV_O_NO_IO)."""


class OpenContext(NamedTuple):
    """The environment, and the options of every node that concern its driver."""

    env: Environment
    node_name: str
    read_only: bool
    discard: bool = False
    """``discard: unmap``."""
    detect_zeroes: bool = False
    no_flush: bool = False
    auto_read_only: bool = False
    inactive: bool = False
    """Another process may have the image, so nothing of it is written (BDRV_O_INACTIVE)."""
    probed: bool = False
    """The format was found by looking at the image (no client can say so)."""
    on_corruption: Callable[[Corruption], None] = lambda _: None
    """Called for damage that is found in an image's metadata."""
