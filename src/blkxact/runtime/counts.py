"""How much an emulator holds now: plain numbers for tests, and for whoever watches a process.

``statistics()`` of ``BlockLayer``, ``QmpServer`` and ``NbdServer`` returns them. Invariant: once a
block layer is shut down and its clients are gone, every number is zero, so ``LayerStatistics()``,
``QmpStatistics()`` and ``NbdStatistics()`` are what a check for leaks compares with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QmpClientStatistics:
    """One QMP client."""

    address: str
    """The address it connected to."""
    held: int = 0
    """Bytes of its input and output that count towards the limit for all clients."""
    unread: int = 0
    """Bytes of replies and events that it has not read yet, as far as this process holds them."""
    commands: int = 0
    """Commands that were begun and have not ended."""
    parsing: bool = False
    """Whether a long message is parsed in several turns."""


@dataclass(frozen=True, slots=True)
class QmpStatistics:
    """The monitors' sockets and clients."""

    addresses: int = 0
    held: int = 0
    """The sum over all clients."""
    clients: tuple[QmpClientStatistics, ...] = ()
    """In the order in which they connected."""


@dataclass(frozen=True, slots=True)
class NbdClientStatistics:
    """One client of the NBD server."""

    requests: int = 0
    """Requests that wait for the disk."""
    unread: int = 0
    """Bytes of replies that it has not read yet, as far as this process holds them."""
    choked: bool = False
    """Whether its socket takes no more for now."""
    leaving: bool = False
    """Whether no more is taken from it."""


@dataclass(frozen=True, slots=True)
class NbdStatistics:
    """The NBD server's clients."""

    held: int = 0
    """Bytes of requests under way and of replies that were not read, of all clients."""
    clients: tuple[NbdClientStatistics, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """One block layer."""

    nodes: int = 0
    """Also those that are still being opened."""
    requests: int = 0
    """Requests under way at any node."""
    devices: int = 0
    """Block devices of the guest."""
    jobs: int = 0
    """Jobs that are not dismissed."""
    transactions: int = 0
    """Transactions that have not completed."""
    bitmaps: int = 0
    busy_bitmaps: int = 0
    """Those of them that a job has frozen, or that are busy otherwise."""
    exports: int = 0
    nbd_clients: int = 0
    open_files: int = 0
    """Files that the storage has open; other layers may share it."""
