"""The options of nodes."""

from __future__ import annotations

from .base import QapiEnum


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


class BlockdevQcow2Version(QapiEnum):
    """BlockdevQcow2Version."""

    V2 = "v2"
    V3 = "v3"


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
