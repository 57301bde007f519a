"""The options of nodes: BlockdevOptions. Those of new images are in ``blockdev_create.py``.

Only drivers that blkxact has are in the schema, as QEMU's schema leaves out what was not built in.

QEMU's counterpart: the second half of ``qapi/block-core.json``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from .block_core import BlockDirtyBitmap, BlockPermission
from .common import (
    BY_KIND,
    NULL,
    OBJECT,
    STRING,
    Alternate,
    Array,
    Int,
    Int32,
    OnOffAuto,
    Opt,
    QapiModel,
    UInt32,
    UInt64,
)
from .sockets import SocketAddress

BlockdevDriver = Literal[
    "blkdebug",
    "compress",
    "copy-before-write",
    "file",
    "host_device",
    "nbd",
    "null-aio",
    "null-co",
    "qcow2",
    "raw",
    "snapshot-access",
    "throttle",
]
BlockdevDiscardOptions = Literal["ignore", "unmap"]
BlockdevDetectZeroesOptions = Literal["off", "on", "unmap"]
BlockdevAioOptions = Literal["threads", "native", "io_uring"]
PreallocMode = Literal["off", "metadata", "falloc", "full"]


class BlockdevCacheOptions(QapiModel):
    """Member ``cache`` of BlockdevOptions."""

    direct: Opt[bool] = None
    no_flush: Opt[bool] = None


class BlockdevOptionsBase(QapiModel):
    """What every node has. ``None`` lets a child take what its parent has."""

    driver: str
    node_name: Opt[str] = None
    discard: Opt[BlockdevDiscardOptions] = None
    cache: Opt[BlockdevCacheOptions] = None
    read_only: Opt[bool] = None
    auto_read_only: Opt[bool] = None
    force_share: Opt[bool] = None
    detect_zeroes: BlockdevDetectZeroesOptions = "off"


# Protocols


class BlockdevOptionsFile(BlockdevOptionsBase):
    """A file of the host."""

    driver: Literal["file", "host_device"]
    filename: str
    pr_manager: Opt[str] = None
    locking: OnOffAuto = "auto"
    aio: BlockdevAioOptions = "threads"
    aio_max_batch: Opt[Int] = None
    drop_cache: bool = True
    x_check_cache_dropped: bool = False


class BlockdevOptionsNull(BlockdevOptionsBase):
    """A disk that forgets."""

    driver: Literal["null-co", "null-aio"]
    size: Int = 1 << 30
    """Bytes."""
    latency_ns: UInt64 = 0
    read_zeroes: bool = False


class BlockdevOptionsNbd(BlockdevOptionsBase):
    """An export of an NBD server."""

    driver: Literal["nbd"]
    server: SocketAddress
    export: str = ""
    tls_creds: Opt[str] = None
    tls_hostname: Opt[str] = None
    x_dirty_bitmap: Opt[str] = None
    reconnect_delay: UInt32 = 0
    """Seconds."""
    open_timeout: UInt32 = 0
    """Seconds."""


# Formats


class BlockdevOptionsGenericFormat(BlockdevOptionsBase):
    """A node over one other."""

    file: BlockdevRef


class BlockdevOptionsGenericCOWFormat(BlockdevOptionsGenericFormat):
    """A format with backing files: absent is what the image says, ``null`` is none."""

    backing: Opt[BlockdevRefOrNull] = None


class BlockdevOptionsRaw(BlockdevOptionsGenericFormat):
    """A raw image, or a window on it."""

    driver: Literal["raw"]
    offset: Opt[Int] = None
    size: Opt[Int] = None


Qcow2OverlapCheckMode = Literal["none", "constant", "cached", "all"]


class Qcow2OverlapCheckFlags(QapiModel):
    """Which overlap checks are made."""

    template: Opt[Qcow2OverlapCheckMode] = None
    main_header: Opt[bool] = None
    active_l1: Opt[bool] = None
    active_l2: Opt[bool] = None
    refcount_table: Opt[bool] = None
    refcount_block: Opt[bool] = None
    snapshot_table: Opt[bool] = None
    inactive_l1: Opt[bool] = None
    inactive_l2: Opt[bool] = None
    bitmap_directory: Opt[bool] = None


Qcow2OverlapChecks = Annotated[
    Annotated[Qcow2OverlapCheckFlags, OBJECT] | Annotated[Qcow2OverlapCheckMode, STRING],
    BY_KIND,
    Alternate("Qcow2OverlapChecks"),
]


class BlockdevOptionsQcow2(BlockdevOptionsGenericCOWFormat):
    """A qcow2 image."""

    driver: Literal["qcow2"]
    lazy_refcounts: Opt[bool] = None
    pass_discard_request: Opt[bool] = None
    pass_discard_snapshot: Opt[bool] = None
    pass_discard_other: Opt[bool] = None
    overlap_check: Opt[Qcow2OverlapChecks] = None
    cache_size: Opt[Int] = None
    l2_cache_size: Opt[Int] = None
    l2_cache_entry_size: Opt[Int] = None
    refcount_cache_size: Opt[Int] = None
    cache_clean_interval: Opt[Int] = None
    data_file: Opt[BlockdevRef] = None


# Filters

BlkdebugEvent = Literal[
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
]
BlkdebugIOType = Literal["read", "write", "write-zeroes", "discard", "flush", "block-status"]


class BlkdebugInjectErrorOptions(QapiModel):
    """A rule that makes requests fail."""

    event: BlkdebugEvent
    state: Opt[Int] = None
    iotype: Opt[BlkdebugIOType] = None
    errno: Opt[Int] = None
    """A number of the host's; ``EIO`` by default."""
    sector: Opt[Int] = None
    once: bool = False
    immediately: bool = False


class BlkdebugSetStateOptions(QapiModel):
    """A rule that changes the state."""

    event: BlkdebugEvent
    state: Opt[Int] = None
    new_state: Int = Field(alias="new_state")


class BlockdevOptionsBlkdebug(BlockdevOptionsBase):
    """A filter that injects errors."""

    driver: Literal["blkdebug"]
    image: BlockdevRef
    config: Opt[str] = None
    """A file of rules."""
    align: Opt[Int] = None
    max_transfer: Opt[Int32] = None
    opt_write_zero: Opt[Int32] = None
    max_write_zero: Opt[Int32] = None
    opt_discard: Opt[Int32] = None
    max_discard: Opt[Int32] = None
    inject_error: Opt[Array[BlkdebugInjectErrorOptions]] = None
    set_state: Opt[Array[BlkdebugSetStateOptions]] = None
    take_child_perms: Opt[Array[BlockPermission]] = None
    unshare_child_perms: Opt[Array[BlockPermission]] = None


class BlockdevOptionsCompress(BlockdevOptionsGenericFormat):
    """A filter that makes compressed writes of all writes."""

    driver: Literal["compress"]


class BlockdevOptionsCbw(BlockdevOptionsGenericFormat):
    """A filter that saves what a write is about to destroy."""

    driver: Literal["copy-before-write"]
    target: BlockdevRef
    bitmap: Opt[BlockDirtyBitmap] = None
    on_cbw_error: Literal["break-guest-write", "break-snapshot"] = "break-guest-write"
    cbw_timeout: UInt32 = 0
    """Seconds; 0 is without a limit."""


class BlockdevOptionsSnapshotAccess(BlockdevOptionsGenericFormat):
    """The point in time that a copy-before-write filter below keeps."""

    driver: Literal["snapshot-access"]


class BlockdevOptionsThrottle(BlockdevOptionsBase):
    """A filter that slows requests down."""

    driver: Literal["throttle"]
    throttle_group: str
    file: BlockdevRef


BlockdevOptions = Annotated[
    BlockdevOptionsBlkdebug
    | BlockdevOptionsCbw
    | BlockdevOptionsCompress
    | BlockdevOptionsFile
    | BlockdevOptionsNbd
    | BlockdevOptionsNull
    | BlockdevOptionsQcow2
    | BlockdevOptionsRaw
    | BlockdevOptionsSnapshotAccess
    | BlockdevOptionsThrottle,
    Discriminator("driver"),
]
"""blockdev-add."""

BlockdevRef = Annotated[
    Annotated[BlockdevOptions, OBJECT] | Annotated[str, STRING], BY_KIND, Alternate("BlockdevRef")
]
"""A new node, or the name of one."""

BlockdevRefOrNull = Annotated[
    Annotated[BlockdevOptions, OBJECT] | Annotated[str, STRING] | Annotated[None, NULL],
    BY_KIND,
    Alternate("BlockdevRefOrNull"),
]


class BlockdevReopen(QapiModel):
    """blockdev-reopen."""

    options: Array[BlockdevOptions]


class BlockdevDel(QapiModel):
    """blockdev-del."""

    node_name: str
