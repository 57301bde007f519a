"""The enumerations of QAPI. Each stands here once; the models and the code use the same members.

A member is a string and equal to its name on the wire, so it may be sent as it is. Names, values
and their order are QEMU's (``qapi/*.json``), less what blkxact does not have. ``ErrorClass`` is in
``errors.py``; the drivers' names (BlockdevDriver) are in the models of their options.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class QapiEnum(StrEnum):
    """An enumeration that a field of a model may have as its type."""

    @classmethod
    def named(cls, name: str) -> Self | None:
        """Return the member that has this name on the wire, if there is one."""
        return next((member for member in cls if member == name), None)


# The monitor and the machine


class OnOffAuto(QapiEnum):
    """OnOffAuto."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class QMPCapability(QapiEnum):
    """QMPCapability."""

    OOB = "oob"


class MonitorMode(QapiEnum):
    """MonitorMode."""

    READLINE = "readline"
    CONTROL = "control"


class ShutdownCause(QapiEnum):
    """ShutdownCause."""

    NONE = "none"
    HOST_ERROR = "host-error"
    HOST_QMP_QUIT = "host-qmp-quit"
    HOST_QMP_SYSTEM_RESET = "host-qmp-system-reset"
    HOST_SIGNAL = "host-signal"
    HOST_UI = "host-ui"
    GUEST_SHUTDOWN = "guest-shutdown"
    GUEST_RESET = "guest-reset"
    GUEST_PANIC = "guest-panic"
    SUBSYSTEM_RESET = "subsystem-reset"
    SNAPSHOT_LOAD = "snapshot-load"


# Jobs


class JobType(QapiEnum):
    """JobType."""

    COMMIT = "commit"
    STREAM = "stream"
    MIRROR = "mirror"
    BACKUP = "backup"
    CREATE = "create"
    AMEND = "amend"
    SNAPSHOT_LOAD = "snapshot-load"
    SNAPSHOT_SAVE = "snapshot-save"
    SNAPSHOT_DELETE = "snapshot-delete"


class JobStatus(QapiEnum):
    """JobStatus."""

    UNDEFINED = "undefined"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    READY = "ready"
    STANDBY = "standby"
    WAITING = "waiting"
    PENDING = "pending"
    ABORTING = "aborting"
    CONCLUDED = "concluded"
    NULL = "null"


class JobVerb(QapiEnum):
    """JobVerb."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    SET_SPEED = "set-speed"
    COMPLETE = "complete"
    FINALIZE = "finalize"
    DISMISS = "dismiss"
    CHANGE = "change"


class BlockdevOnError(QapiEnum):
    """BlockdevOnError: what follows a failed request."""

    REPORT = "report"
    IGNORE = "ignore"
    ENOSPC = "enospc"
    STOP = "stop"
    AUTO = "auto"


class BlockErrorAction(QapiEnum):
    """BlockErrorAction: what has followed one."""

    IGNORE = "ignore"
    REPORT = "report"
    STOP = "stop"


class BlockDeviceIoStatus(QapiEnum):
    """BlockDeviceIoStatus."""

    OK = "ok"
    FAILED = "failed"
    NOSPACE = "nospace"


class IoOperationType(QapiEnum):
    """IoOperationType."""

    READ = "read"
    WRITE = "write"


class MirrorSyncMode(QapiEnum):
    """MirrorSyncMode. ``incremental`` is ``bitmap`` with bitmap-mode ``on-success``."""

    TOP = "top"
    FULL = "full"
    NONE = "none"
    INCREMENTAL = "incremental"
    BITMAP = "bitmap"


class BitmapSyncMode(QapiEnum):
    """BitmapSyncMode: when a bitmap is brought in step with the target."""

    ON_SUCCESS = "on-success"
    NEVER = "never"
    ALWAYS = "always"


class MirrorCopyMode(QapiEnum):
    """MirrorCopyMode."""

    BACKGROUND = "background"
    WRITE_BLOCKING = "write-blocking"


class NewImageMode(QapiEnum):
    """NewImageMode."""

    EXISTING = "existing"
    ABSOLUTE_PATHS = "absolute-paths"


# Transactions


class ActionCompletionMode(QapiEnum):
    """ActionCompletionMode, and ``deferred``, which QEMU does not have."""

    INDIVIDUAL = "individual"
    GROUPED = "grouped"
    DEFERRED = "deferred"


class TransactionStatus(QapiEnum):
    """How a transaction ended, or that it has not. QEMU has none."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BitmapOutcome(QapiEnum):
    """What became of a bitmap that a job had frozen. QEMU has none.

    ``kept`` is a bitmap that the job did not change.
    """

    ABDICATED = "abdicated"
    RECLAIMED = "reclaimed"
    KEPT = "kept"


# Nodes and images


class BlockdevChangeReadOnlyMode(QapiEnum):
    """BlockdevChangeReadOnlyMode."""

    RETAIN = "retain"
    READ_ONLY = "read-only"
    READ_WRITE = "read-write"


class BlockdevDiscardOptions(QapiEnum):
    """BlockdevDiscardOptions."""

    IGNORE = "ignore"
    UNMAP = "unmap"


class BlockdevDetectZeroesOptions(QapiEnum):
    """BlockdevDetectZeroesOptions."""

    OFF = "off"
    ON = "on"
    UNMAP = "unmap"


class BlockdevAioOptions(QapiEnum):
    """BlockdevAioOptions."""

    THREADS = "threads"
    NATIVE = "native"
    IO_URING = "io_uring"


class BlockPermission(QapiEnum):
    """BlockPermission. ``block.types.Permission`` is their set."""

    CONSISTENT_READ = "consistent-read"
    WRITE = "write"
    WRITE_UNCHANGED = "write-unchanged"
    RESIZE = "resize"


class PreallocMode(QapiEnum):
    """PreallocMode."""

    OFF = "off"
    METADATA = "metadata"
    FALLOC = "falloc"
    FULL = "full"


class BlockdevQcow2Version(QapiEnum):
    """BlockdevQcow2Version."""

    V2 = "v2"
    V3 = "v3"


class Qcow2CompressionType(QapiEnum):
    """Qcow2CompressionType."""

    ZLIB = "zlib"
    ZSTD = "zstd"


class Qcow2OverlapCheckMode(QapiEnum):
    """Qcow2OverlapCheckMode."""

    NONE = "none"
    CONSTANT = "constant"
    CACHED = "cached"
    ALL = "all"


class QuorumReadPattern(QapiEnum):
    """QuorumReadPattern."""

    QUORUM = "quorum"
    FIFO = "fifo"


class QuorumOpType(QapiEnum):
    """QuorumOpType."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"


class OnCbwError(QapiEnum):
    """OnCbwError: what fails when the old data cannot be copied."""

    BREAK_GUEST_WRITE = "break-guest-write"
    BREAK_SNAPSHOT = "break-snapshot"


class BlkdebugIOType(QapiEnum):
    """BlkdebugIOType."""

    READ = "read"
    WRITE = "write"
    WRITE_ZEROES = "write-zeroes"
    DISCARD = "discard"
    FLUSH = "flush"
    BLOCK_STATUS = "block-status"


class BlkdebugEvent(QapiEnum):
    """BlkdebugEvent. Each is the point ``node.EVENT``, passed where a blkdebug node listens."""

    L1_UPDATE = "l1_update"
    L1_GROW_ALLOC_TABLE = "l1_grow_alloc_table"
    L1_GROW_WRITE_TABLE = "l1_grow_write_table"
    L1_GROW_ACTIVATE_TABLE = "l1_grow_activate_table"
    L2_LOAD = "l2_load"
    L2_UPDATE = "l2_update"
    L2_UPDATE_COMPRESSED = "l2_update_compressed"
    L2_ALLOC_COW_READ = "l2_alloc_cow_read"
    L2_ALLOC_WRITE = "l2_alloc_write"
    READ_AIO = "read_aio"
    READ_BACKING_AIO = "read_backing_aio"
    READ_COMPRESSED = "read_compressed"
    WRITE_AIO = "write_aio"
    WRITE_COMPRESSED = "write_compressed"
    VMSTATE_LOAD = "vmstate_load"
    VMSTATE_SAVE = "vmstate_save"
    COW_READ = "cow_read"
    COW_WRITE = "cow_write"
    REFTABLE_LOAD = "reftable_load"
    REFTABLE_GROW = "reftable_grow"
    REFTABLE_UPDATE = "reftable_update"
    REFBLOCK_LOAD = "refblock_load"
    REFBLOCK_UPDATE = "refblock_update"
    REFBLOCK_UPDATE_PART = "refblock_update_part"
    REFBLOCK_ALLOC = "refblock_alloc"
    REFBLOCK_ALLOC_HOOKUP = "refblock_alloc_hookup"
    REFBLOCK_ALLOC_WRITE = "refblock_alloc_write"
    REFBLOCK_ALLOC_WRITE_BLOCKS = "refblock_alloc_write_blocks"
    REFBLOCK_ALLOC_WRITE_TABLE = "refblock_alloc_write_table"
    REFBLOCK_ALLOC_SWITCH_TABLE = "refblock_alloc_switch_table"
    CLUSTER_ALLOC = "cluster_alloc"
    CLUSTER_ALLOC_BYTES = "cluster_alloc_bytes"
    CLUSTER_FREE = "cluster_free"
    FLUSH_TO_OS = "flush_to_os"
    FLUSH_TO_DISK = "flush_to_disk"
    PWRITEV_RMW_HEAD = "pwritev_rmw_head"
    PWRITEV_RMW_AFTER_HEAD = "pwritev_rmw_after_head"
    PWRITEV_RMW_TAIL = "pwritev_rmw_tail"
    PWRITEV_RMW_AFTER_TAIL = "pwritev_rmw_after_tail"
    PWRITEV = "pwritev"
    PWRITEV_ZERO = "pwritev_zero"
    PWRITEV_DONE = "pwritev_done"
    EMPTY_IMAGE_PREPARE = "empty_image_prepare"
    L1_SHRINK_WRITE_TABLE = "l1_shrink_write_table"
    L1_SHRINK_FREE_L2_CLUSTERS = "l1_shrink_free_l2_clusters"
    COR_WRITE = "cor_write"
    CLUSTER_ALLOC_SPACE = "cluster_alloc_space"
    NONE = "none"


# Exports and objects


class BlockExportRemoveMode(QapiEnum):
    """BlockExportRemoveMode."""

    SAFE = "safe"
    HARD = "hard"


class QCryptoTLSCredsEndpoint(QapiEnum):
    """QCryptoTLSCredsEndpoint."""

    CLIENT = "client"
    SERVER = "server"
