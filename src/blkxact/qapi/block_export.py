"""Exports of nodes over NBD.

QEMU's counterpart: ``qapi/block-export.json``.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from blkxact.enums import BlockExportRemoveMode

from .block_core import BlockDirtyBitmapOrStr
from .common import ARRAY, STRING, Alternate, Array, Discriminator, Opt, QapiModel, UInt32
from .sockets import SocketAddress, SocketAddressLegacy

HANDSHAKE_MAX_SECONDS: Final = 10
"""NBD_DEFAULT_HANDSHAKE_MAX_SECS."""


class NbdServerOptionsBase(QapiModel):
    """What a server has that was not always there."""

    handshake_max_seconds: UInt32 = HANDSHAKE_MAX_SECONDS
    """Time for the handshake of a client; 0 is without a limit."""


class NbdServerOptions(NbdServerOptionsBase):
    """``--nbd-server`` on the command line."""

    addr: SocketAddress
    tls_creds: Opt[str] = None
    tls_authz: Opt[str] = None
    max_connections: UInt32 = 0
    """0 is without a limit."""


class NbdServerStart(NbdServerOptionsBase):
    """nbd-server-start."""

    addr: SocketAddressLegacy
    tls_creds: Opt[str] = None
    tls_authz: Opt[str] = None
    max_connections: UInt32 = 0
    """0 is without a limit."""


class BlockExportOptionsNbdBase(QapiModel):
    """What an NBD client is shown."""

    name: Opt[str] = None
    """The node's name by default."""
    description: Opt[str] = None


class NbdServerAddOptions(BlockExportOptionsNbdBase):
    """nbd-server-add."""

    device: str
    writable: bool = False
    bitmap: Opt[str] = None


class NbdServerRemove(QapiModel):
    """nbd-server-remove."""

    name: str
    mode: BlockExportRemoveMode = BlockExportRemoveMode.SAFE


BlockExportIothreads = Annotated[
    Annotated[str, STRING] | Annotated[Array[str], ARRAY], Alternate("BlockExportIothreads")
]
"""One iothread, or several for an export that runs in all of them."""


class BlockExportOptionsBase(QapiModel):
    """What every export has."""

    type: str
    id: str
    fixed_iothread: bool = False
    iothread: Opt[BlockExportIothreads] = None
    node_name: str
    writable: bool = False
    writethrough: bool = False
    allow_inactive: bool = False
    """The node may be inactive, and is read-only to clients as long as it is."""


class BlockExportOptionsNbd(BlockExportOptionsNbdBase, BlockExportOptionsBase):
    """An export over NBD."""

    type: Literal["nbd"]
    bitmaps: Opt[Array[BlockDirtyBitmapOrStr]] = None
    allocation_depth: bool = False


BlockExportOptions = Annotated[BlockExportOptionsNbd, Discriminator("type")]
"""block-export-add, ``--export`` on the command line."""


class BlockExportDel(QapiModel):
    """block-export-del."""

    id: str
    mode: BlockExportRemoveMode = BlockExportRemoveMode.SAFE
