"""The exports of a server, as its handshake sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from .protocol import TransmissionFlag


class Offer(Protocol):
    """What the handshake says of an export."""

    @property
    def name(self) -> str:
        """What clients ask for."""

    @property
    def description(self) -> str | None:
        """A text for people."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    @property
    def flags(self) -> TransmissionFlag:
        """What can be done with it."""

    @property
    def minimum_block(self) -> int:
        """Requests should be multiples of so many bytes."""

    @property
    def contexts(self) -> Mapping[int, str]:
        """Names of metadata contexts by their numbers, in the order in which they are sent."""


class Catalogue(Protocol):
    """The exports that a client may choose from."""

    def offers(self) -> Iterable[Offer]:
        """Return all exports."""

    def find_offer(self, name: str) -> Offer | None:
        """Return the export of that name."""
