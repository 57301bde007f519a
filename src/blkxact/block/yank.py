"""The connections of one graph that can be cut from outside, because their server is silent.

A connection is listed from the moment it is first tried until its driver has closed, so that
nothing that waits for a server is out of reach: neither a node that is still being opened, nor one
that flushes before it closes.

QEMU's counterpart: ``util/yank.c``.
"""

from __future__ import annotations

from typing import Protocol


class Connection(Protocol):
    """A driver with a connection to a server."""

    @property
    def is_waiting(self) -> bool:
        """Whether something waits for the server to answer."""

    def cancel_in_flight(self) -> None:
        """Fail what waits for a connection; a request that was sent continues."""

    def yank(self) -> None:
        """Cut the connection for good. What waits for an answer fails."""


class YankInstances:
    """The connections, by the names of their nodes."""

    def __init__(self) -> None:
        # A name is free again while its old node is still being closed, so it is not the key.
        self._names: dict[Connection, str] = {}

    def register(self, node_name: str, connection: Connection) -> None:
        """List a connection that is about to be made."""
        self._names[connection] = node_name

    def unregister(self, connection: Connection) -> None:
        """Take a connection that is closed off the list; a second call does nothing."""
        self._names.pop(connection, None)

    def names(self) -> list[str]:
        """Return the names of the nodes, the latest first, as in QEMU."""
        return list(reversed(self._names.values()))

    def find(self, node_name: str) -> list[Connection]:
        """Return the connections of the nodes with that name."""
        return [connection for connection, name in self._names.items() if name == node_name]

    def cancel_in_flight(self) -> None:
        """Fail what waits for a connection."""
        for connection in list(self._names):
            connection.cancel_in_flight()

    def cut_all(self) -> None:
        """Cut all connections."""
        for connection in list(self._names):
            connection.yank()

    def cut_off(self) -> list[str]:
        """Cut the connections whose server has not answered; return the names of their nodes."""
        silent = [connection for connection in self._names if connection.is_waiting]
        for connection in silent:
            connection.yank()
        return [self._names[connection] for connection in silent]
