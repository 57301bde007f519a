"""Bitmaps, backups, snapshots and the other verbs on nodes.

QEMU's counterpart: ``qapi/block-core.json``; the options of nodes are in ``blockdev.py``, the other
jobs in ``block_jobs.py``.
"""

from __future__ import annotations

from typing import Annotated

from blkxact.enums import (
    BitmapSyncMode,
    BlockdevOnError,
    MirrorSyncMode,
    NewImageMode,
    OnCbwError,
)

from .common import (
    NULL,
    OBJECT,
    STRING,
    Alternate,
    Array,
    Int,
    Opt,
    QapiModel,
    Size,
    UInt32,
    UInt64,
)

# Dirty bitmaps


class BlockDirtyBitmap(QapiModel):
    """block-dirty-bitmap-remove, -clear, -enable, -disable, x-debug-block-dirty-bitmap-sha256."""

    node: str
    """A node name or a device name."""
    name: str


class BlockDirtyBitmapAdd(QapiModel):
    """block-dirty-bitmap-add."""

    node: str
    name: str
    granularity: Opt[UInt32] = None
    """Bytes; by default the cluster size of the image, 4 KiB to 64 KiB."""
    persistent: bool = False
    disabled: bool = False


BlockDirtyBitmapOrStr = Annotated[
    Annotated[str, STRING] | Annotated[BlockDirtyBitmap, OBJECT],
    Alternate("BlockDirtyBitmapOrStr"),
]
"""The name of a bitmap of the same node, or a bitmap of any node."""


class BlockDirtyBitmapMerge(QapiModel):
    """block-dirty-bitmap-merge."""

    node: str
    target: str
    bitmaps: Array[BlockDirtyBitmapOrStr]


# Backups


class BackupPerf(QapiModel):
    """How a backup copies; accepted, of no effect on what is copied."""

    use_copy_range: Opt[bool] = None
    max_workers: Opt[Int] = None
    max_chunk: Opt[Int] = None
    """Bytes; 0 is without a limit."""
    min_cluster_size: Opt[Size] = None
    """Bytes, a power of two: the least that is copied at a time."""


class BackupCommon(QapiModel):
    """What ``drive-backup`` and ``blockdev-backup`` share."""

    job_id: Opt[str] = None
    device: str
    """A device name or a node name."""
    sync: MirrorSyncMode
    speed: Int = 0
    """Bytes per second; 0 is without a limit."""
    bitmap: Opt[str] = None
    bitmap_mode: Opt[BitmapSyncMode] = None
    compress: bool = False
    discard_source: bool = False
    """Discard in the source what the target has."""
    on_source_error: BlockdevOnError = BlockdevOnError.REPORT
    on_target_error: BlockdevOnError = BlockdevOnError.REPORT
    on_cbw_error: Opt[OnCbwError] = None
    auto_finalize: bool = True
    auto_dismiss: bool = True
    filter_node_name: Opt[str] = None
    x_perf: Opt[BackupPerf] = None


class DriveBackup(BackupCommon):
    """drive-backup: the target is a file, created unless ``mode`` is ``existing``."""

    target: str
    """A file name."""
    format: Opt[str] = None
    mode: NewImageMode = NewImageMode.ABSOLUTE_PATHS


class BlockdevBackup(BackupCommon):
    """blockdev-backup: the target is a node."""

    target: str
    """A device name or a node name."""


# Snapshots


class BlockdevSnapshotSync(QapiModel):
    """blockdev-snapshot-sync: a new overlay file."""

    device: Opt[str] = None
    node_name: Opt[str] = None
    snapshot_file: str
    snapshot_node_name: Opt[str] = None
    format: str = "qcow2"
    mode: NewImageMode = NewImageMode.ABSOLUTE_PATHS


class BlockdevSnapshot(QapiModel):
    """blockdev-snapshot: an overlay that is a node already."""

    node: str
    overlay: str


class BlockdevSnapshotInternal(QapiModel):
    """blockdev-snapshot-internal-sync."""

    device: str
    name: str


class BlockdevSnapshotDeleteInternalSync(QapiModel):
    """blockdev-snapshot-delete-internal-sync."""

    device: str
    id: Opt[str] = None
    name: Opt[str] = None


# Nodes


class BlockResize(QapiModel):
    """block_resize."""

    device: Opt[str] = None
    node_name: Opt[str] = None
    size: Int


class ChangeBackingFile(QapiModel):
    """change-backing-file."""

    device: str
    image_node_name: str
    backing_file: str


StrOrNull = Annotated[Annotated[str, STRING] | Annotated[None, NULL], Alternate("StrOrNull")]


class BlockdevSetIothread(QapiModel):
    """x-blockdev-set-iothread; ``null`` is the main loop."""

    node_name: str
    iothread: StrOrNull
    force: bool = False


class BlockdevSetActive(QapiModel):
    """blockdev-set-active."""

    node_name: Opt[str] = None
    """All nodes by default."""
    active: bool


class BlockSetWriteThreshold(QapiModel):
    """block-set-write-threshold."""

    node_name: str
    write_threshold: UInt64


class BlockdevChange(QapiModel):
    """x-blockdev-change."""

    parent: str
    child: Opt[str] = None
    node: Opt[str] = None


class QueryBlock(QapiModel):
    """query-block."""

    flat: bool = False
    """Leave out the information on backing files."""


class QueryNamedBlockNodes(QapiModel):
    """query-named-block-nodes."""

    flat: bool = False
    """Leave out the information on backing files."""


class QueryBlockstats(QapiModel):
    """query-blockstats."""

    query_nodes: bool = False


class BlockIOThrottle(QapiModel):
    """block_set_io_throttle (its old members have underscores on the wire)."""

    device: Opt[str] = None
    id: Opt[str] = None
    bps: Int
    bps_rd: Int
    bps_wr: Int
    iops: Int
    iops_rd: Int
    iops_wr: Int
    bps_max: Opt[Int] = None
    bps_rd_max: Opt[Int] = None
    bps_wr_max: Opt[Int] = None
    iops_max: Opt[Int] = None
    iops_rd_max: Opt[Int] = None
    iops_wr_max: Opt[Int] = None
    bps_max_length: Opt[Int] = None
    bps_rd_max_length: Opt[Int] = None
    bps_wr_max_length: Opt[Int] = None
    iops_max_length: Opt[Int] = None
    iops_rd_max_length: Opt[Int] = None
    iops_wr_max_length: Opt[Int] = None
    iops_size: Opt[Int] = None
    group: Opt[str] = None

    @staticmethod
    def wire_name(attribute: str) -> str:
        """Return the QAPI name of an attribute, which has underscores as well."""
        return attribute
