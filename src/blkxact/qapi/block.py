"""Commands on the media of devices.

QEMU's counterpart: ``qapi/block.json``.
"""

from __future__ import annotations

from blkxact.enums import BlockdevChangeReadOnlyMode

from .common import Array, Opt, QapiModel, UInt64


class Eject(QapiModel):
    """eject, blockdev-open-tray."""

    device: Opt[str] = None
    id: Opt[str] = None
    force: bool = False


class BlockdevCloseTray(QapiModel):
    """blockdev-close-tray."""

    device: Opt[str] = None
    id: Opt[str] = None


class BlockdevRemoveMedium(QapiModel):
    """blockdev-remove-medium."""

    id: str


class BlockdevInsertMedium(QapiModel):
    """blockdev-insert-medium."""

    id: str
    node_name: str


class BlockdevChangeMedium(QapiModel):
    """blockdev-change-medium."""

    device: Opt[str] = None
    id: Opt[str] = None
    filename: str
    format: Opt[str] = None
    force: bool = False
    read_only_mode: BlockdevChangeReadOnlyMode = BlockdevChangeReadOnlyMode.RETAIN


class BlockLatencyHistogramSet(QapiModel):
    """block-latency-histogram-set; boundaries are in nanoseconds."""

    id: str
    boundaries: Opt[Array[UInt64]] = None
    boundaries_read: Opt[Array[UInt64]] = None
    boundaries_write: Opt[Array[UInt64]] = None
    boundaries_zap: Opt[Array[UInt64]] = None
    boundaries_flush: Opt[Array[UInt64]] = None
