"""Snapshots of the machine; and a migration's parameters: described for programs, and refused.

QEMU's counterpart: ``qapi/migration.json``.
"""

from __future__ import annotations

from typing import Literal

from .block_core import StrOrNull
from .common import Array, Opt, QapiModel, Size, UInt8, UInt32, UInt64

MultiFDCompression = Literal["none", "zlib", "zstd"]


class BitmapMigrationBitmapAliasTransform(QapiModel):
    """What a bitmap is given at the destination."""

    persistent: Opt[bool] = None


class BitmapMigrationBitmapAlias(QapiModel):
    """The name of a bitmap on the way."""

    name: str
    alias: str
    transform: Opt[BitmapMigrationBitmapAliasTransform] = None


class BitmapMigrationNodeAlias(QapiModel):
    """The name of a node on the way, and its bitmaps."""

    node_name: str
    alias: str
    bitmaps: Array[BitmapMigrationBitmapAlias]


class MigrationCapabilityStatus(QapiModel):
    """A capability, on or off."""

    capability: Literal[
        "xbzrle",
        "rdma-pin-all",
        "auto-converge",
        "zero-blocks",
        "compress",
        "events",
        "postcopy-ram",
        "x-colo",
        "release-ram",
        "block",
        "return-path",
        "pause-before-switchover",
        "multifd",
        "dirty-bitmaps",
        "postcopy-blocktime",
        "late-block-activate",
        "x-ignore-shared",
        "validate-uuid",
        "background-snapshot",
        "zero-copy-send",
        "postcopy-preempt",
    ]
    state: bool


class MigrateSetCapabilities(QapiModel):
    """migrate-set-capabilities: accepted, for a migration that never begins."""

    capabilities: Array[MigrationCapabilityStatus]


class MigrateSetParameters(QapiModel):
    """migrate-set-parameters."""

    announce_initial: Opt[Size] = None
    announce_max: Opt[Size] = None
    announce_rounds: Opt[Size] = None
    announce_step: Opt[Size] = None
    compress_level: Opt[UInt8] = None
    compress_threads: Opt[UInt8] = None
    compress_wait_thread: Opt[bool] = None
    decompress_threads: Opt[UInt8] = None
    throttle_trigger_threshold: Opt[UInt8] = None
    cpu_throttle_initial: Opt[UInt8] = None
    cpu_throttle_increment: Opt[UInt8] = None
    cpu_throttle_tailslow: Opt[bool] = None
    tls_creds: Opt[StrOrNull] = None
    tls_hostname: Opt[StrOrNull] = None
    tls_authz: Opt[StrOrNull] = None
    max_bandwidth: Opt[Size] = None
    downtime_limit: Opt[UInt64] = None
    x_checkpoint_delay: Opt[UInt32] = None
    block_incremental: Opt[bool] = None
    multifd_channels: Opt[UInt8] = None
    xbzrle_cache_size: Opt[Size] = None
    max_postcopy_bandwidth: Opt[Size] = None
    max_cpu_throttle: Opt[UInt8] = None
    multifd_compression: Opt[MultiFDCompression] = None
    multifd_zlib_level: Opt[UInt8] = None
    multifd_zstd_level: Opt[UInt8] = None
    block_bitmap_mapping: Opt[Array[BitmapMigrationNodeAlias]] = None


class SnapshotDelete(QapiModel):
    """snapshot-delete."""

    job_id: str
    tag: str
    devices: Array[str]


class SnapshotSave(QapiModel):
    """snapshot-save, snapshot-load."""

    job_id: str
    tag: str
    vmstate: str
    devices: Array[str]
