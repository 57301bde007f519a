"""The options of nodes: BlockdevOptions. Those of new images are in ``blockdev_create.py``.

Only drivers that blkxact has are in the schema, as QEMU's schema leaves out what was not built in.

QEMU's counterpart: the second half of ``qapi/block-core.json``.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, Union

from blkxact.enums import (
    BlkdebugEvent,
    BlkdebugIOType,
    BlockdevAioOptions,
    BlockdevDetectZeroesOptions,
    BlockdevDiscardOptions,
    BlockPermission,
    OnCbwError,
    OnOffAuto,
    Qcow2OverlapCheckMode,
    QuorumReadPattern,
)

from .block_core import BlockDirtyBitmap
from .common import (
    NULL,
    OBJECT,
    STRING,
    Alternate,
    Array,
    Discriminator,
    Int,
    Int32,
    Opt,
    QapiModel,
    Size,
    UInt32,
    UInt64,
    literals,
)
from .sockets import SocketAddress


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
    active: Opt[bool] = None
    detect_zeroes: BlockdevDetectZeroesOptions = BlockdevDetectZeroesOptions.OFF

    def members(self) -> dict[str, Any]:
        """Return what was given, by wire names; a node that is defined inside is its model."""
        return {name: _shallow(value) for name, value in self.items()}


def _shallow(value: Any) -> Any:
    """Return a value as it is on the wire, but a node that is defined inside as its model."""
    match value:
        case str():
            return str(value)  # a member of an enumeration becomes its name
        case BlockdevOptionsBase():
            return value
        case QapiModel():
            return value.to_wire()
        case list():
            return [_shallow(item) for item in value]
    return value


# Protocols


class BlockdevOptionsFile(BlockdevOptionsBase):
    """A file of the host."""

    driver: Literal["file", "host_device"]
    filename: str
    pr_manager: Opt[str] = None
    locking: OnOffAuto = OnOffAuto.AUTO
    aio: BlockdevAioOptions = BlockdevAioOptions.THREADS
    aio_max_batch: Opt[Int] = None
    drop_cache: bool = True
    x_check_cache_dropped: bool = False


NULL_SIZE: Final = 1 << 30


class BlockdevOptionsNull(BlockdevOptionsBase):
    """A disk that forgets."""

    driver: Literal["null-co", "null-aio"]
    size: Int = NULL_SIZE
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
    Alternate("Qcow2OverlapChecks"),
]


class BlockdevOptionsQcow2(BlockdevOptionsGenericCOWFormat):
    """A qcow2 image."""

    driver: Literal["qcow2"]
    lazy_refcounts: Opt[bool] = None
    pass_discard_request: Opt[bool] = None
    pass_discard_snapshot: Opt[bool] = None
    pass_discard_other: Opt[bool] = None
    discard_no_unref: Opt[bool] = None
    """Clusters that are discarded or zeroed stay where they are, as zero clusters."""
    overlap_check: Opt[Qcow2OverlapChecks] = None
    cache_size: Opt[Int] = None
    l2_cache_size: Opt[Int] = None
    l2_cache_entry_size: Opt[Int] = None
    refcount_cache_size: Opt[Int] = None
    cache_clean_interval: Opt[Int] = None
    data_file: Opt[BlockdevRef] = None


# Filters


class BlkdebugInjectErrorOptions(QapiModel):
    """A rule that makes requests fail."""

    event: BlkdebugEvent
    state: Opt[Int] = None
    iotype: Opt[BlkdebugIOType] = None
    errno: Opt[Int] = None
    """A number of the host's; ``EIO`` by default."""
    delay_ns: Int = 0
    """Nanoseconds before the request is answered."""
    sector: Opt[Int] = None
    once: bool = False
    immediately: bool = False


class BlkdebugSetStateOptions(QapiModel):
    """A rule that changes the state."""

    event: BlkdebugEvent
    state: Opt[Int] = None
    new_state: Int

    @staticmethod
    def wire_name(attribute: str) -> str:
        """Return the QAPI name of an attribute, which has underscores as well."""
        return attribute


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


class BlockdevOptionsBlklogwrites(BlockdevOptionsGenericFormat):
    """A filter that keeps a log of all writes."""

    driver: Literal["blklogwrites"]
    log: BlockdevRef
    log_sector_size: Opt[UInt32] = None
    """Bytes; 512, unless an existing log says otherwise."""
    log_append: bool = False
    log_super_update_interval: UInt64 = 4096
    """Requests between two updates of the log's super block."""


class BlockdevOptionsBlkverify(BlockdevOptionsBase):
    """A filter over two images that must agree."""

    driver: Literal["blkverify"]
    test: BlockdevRef
    raw: BlockdevRef


class BlockdevOptionsCompress(BlockdevOptionsGenericFormat):
    """A filter that makes compressed writes of all writes."""

    driver: Literal["compress"]


class BlockdevOptionsCor(BlockdevOptionsGenericFormat):
    """A filter that copies what is read from backing files into the image below it."""

    driver: Literal["copy-on-read"]
    bottom: Opt[str] = None
    """The name of the lowest node from which is copied."""


class BlockdevOptionsCbw(BlockdevOptionsGenericFormat):
    """A filter that saves what a write is about to destroy."""

    driver: Literal["copy-before-write"]
    target: BlockdevRef
    bitmap: Opt[BlockDirtyBitmap] = None
    on_cbw_error: OnCbwError = OnCbwError.BREAK_GUEST_WRITE
    cbw_timeout: UInt32 = 0
    """Seconds; 0 is without a limit."""
    min_cluster_size: Size = 0
    """Bytes, a power of two: the least that is copied at a time."""


class BlockdevOptionsPreallocate(BlockdevOptionsGenericFormat):
    """A filter that lets the file below grow in large steps."""

    driver: Literal["preallocate"]
    prealloc_align: Int = 1 << 20
    """Bytes."""
    prealloc_size: Int = 1 << 27
    """Bytes."""


class BlockdevOptionsQuorum(BlockdevOptionsBase):
    """Several copies of one disk."""

    driver: Literal["quorum"]
    blkverify: Opt[bool] = None
    children: Array[BlockdevRef]
    vote_threshold: Int
    """How many children must agree."""
    rewrite_corrupted: Opt[bool] = None
    read_pattern: Opt[QuorumReadPattern] = None


class BlockdevOptionsSnapshotAccess(BlockdevOptionsGenericFormat):
    """The point in time that a copy-before-write filter below keeps."""

    driver: Literal["snapshot-access"]


class BlockdevOptionsThrottle(BlockdevOptionsBase):
    """A filter that slows requests down."""

    driver: Literal["throttle"]
    throttle_group: str
    file: BlockdevRef


def _models(base: type[BlockdevOptionsBase]) -> Iterator[tuple[str, type[BlockdevOptionsBase]]]:
    """Yield the classes below ``base`` that say which drivers they are for, with these drivers."""
    for model in base.__subclasses__():
        for driver in literals(model, "driver"):
            yield driver, model
        yield from _models(model)


DRIVER_MODELS: Final = MappingProxyType(
    dict(sorted(_models(BlockdevOptionsBase), key=lambda item: item[1].__name__))
)
"""The model of each driver: all classes above that have the name of one."""

if TYPE_CHECKING:
    BlockdevDriver: TypeAlias = str
    BlockdevOptions: TypeAlias = BlockdevOptionsBase
else:
    BlockdevDriver = Literal[tuple(sorted(DRIVER_MODELS))]
    BlockdevOptions = Annotated[
        Union[tuple(dict.fromkeys(DRIVER_MODELS.values()))],  # noqa: UP007 - of a tuple
        Discriminator("driver"),
    ]
    """blockdev-add."""

BlockdevRef = Annotated[
    Annotated[BlockdevOptions, OBJECT] | Annotated[str, STRING], Alternate("BlockdevRef")
]
"""A new node, or the name of one."""

BlockdevRefOrNull = Annotated[
    Annotated[BlockdevOptions, OBJECT] | Annotated[str, STRING] | Annotated[None, NULL],
    Alternate("BlockdevRefOrNull"),
]


class BlockdevReopen(QapiModel):
    """blockdev-reopen."""

    options: Array[BlockdevOptions]


class BlockdevDel(QapiModel):
    """blockdev-del."""

    node_name: str
