"""What a driver may use of the outside world, and how its node is to be opened."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blkxact.clock import Clock
from blkxact.points import Points
from blkxact.storage.api import Network, Storage
from blkxact.throttle.group import ThrottleGroups

from .yank import YankInstances

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap

    from .corruption import Corruption
    from .node import BlockNode

TlsClient = Callable[[str], ssl.SSLContext]
"""From the id of client credentials to what encrypts with them; raises ``QmpError``."""


@dataclass(frozen=True, slots=True)
class OpenContext:
    """What a driver may use of the outside world."""

    storage: Storage
    clock: Clock
    random: random.Random
    node_name: str
    read_only: bool
    discard: bool = False
    """``discard: unmap``."""
    detect_zeroes: bool = False
    no_flush: bool = False
    auto_read_only: bool = False
    throttle_groups: ThrottleGroups | None = None
    find_bitmap: Callable[[str, str], tuple[BlockNode, DirtyBitmap]] | None = None
    """Return a bitmap and its node, wherever in the graph; raises ``QmpError``."""
    network: Network | None = None
    """Where connections to servers come from."""
    tls_client: TlsClient | None = None
    yank: YankInstances = field(default_factory=YankInstances)
    """Where connections to servers are listed."""
    on_corruption: Callable[[Corruption], None] = lambda _: None
    """Called for damage that is found in an image's metadata."""
    points: Points | None = None
    """Those of the emulator, for drivers that pass some."""
    no_io: bool = False
    """Nobody will read or write the disk: only what the image says of itself is wanted."""
