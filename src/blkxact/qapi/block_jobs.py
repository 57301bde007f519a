"""Commits, streams and mirrors, and the verbs on block jobs.

QEMU's counterpart: ``qapi/block-core.json``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from blkxact.enums import (
    BlockdevOnError,
    MirrorCopyMode,
    MirrorSyncMode,
    NewImageMode,
)

from .common import (
    Discriminator,
    Int,
    Opt,
    QapiModel,
    UInt32,
)

# Jobs


class BlockCommit(QapiModel):
    """block-commit."""

    job_id: Opt[str] = None
    device: str
    base_node: Opt[str] = None
    base: Opt[str] = None
    top_node: Opt[str] = None
    top: Opt[str] = None
    backing_file: Opt[str] = None
    backing_mask_protocol: bool = False
    """Name the format of a backing file that is a protocol ``raw``."""
    speed: Int = 0
    on_error: BlockdevOnError = BlockdevOnError.REPORT
    filter_node_name: Opt[str] = None
    auto_finalize: bool = True
    auto_dismiss: bool = True


class BlockStream(QapiModel):
    """block-stream."""

    job_id: Opt[str] = None
    device: str
    base: Opt[str] = None
    base_node: Opt[str] = None
    backing_file: Opt[str] = None
    backing_mask_protocol: bool = False
    """Name the format of a backing file that is a protocol ``raw``."""
    bottom: Opt[str] = None
    speed: Int = 0
    on_error: BlockdevOnError = BlockdevOnError.REPORT
    filter_node_name: Opt[str] = None
    auto_finalize: bool = True
    auto_dismiss: bool = True


class DriveMirror(QapiModel):
    """drive-mirror."""

    job_id: Opt[str] = None
    device: str
    target: str
    format: Opt[str] = None
    node_name: Opt[str] = None
    replaces: Opt[str] = None
    sync: MirrorSyncMode
    mode: NewImageMode = NewImageMode.ABSOLUTE_PATHS
    speed: Int = 0
    granularity: Opt[UInt32] = None
    buf_size: Opt[Int] = None
    on_source_error: BlockdevOnError = BlockdevOnError.REPORT
    on_target_error: BlockdevOnError = BlockdevOnError.REPORT
    unmap: bool = True
    copy_mode: MirrorCopyMode = MirrorCopyMode.BACKGROUND
    auto_finalize: bool = True
    auto_dismiss: bool = True


class BlockdevMirror(QapiModel):
    """blockdev-mirror."""

    job_id: Opt[str] = None
    device: str
    target: str
    replaces: Opt[str] = None
    sync: MirrorSyncMode
    speed: Int = 0
    granularity: Opt[UInt32] = None
    buf_size: Opt[Int] = None
    on_source_error: BlockdevOnError = BlockdevOnError.REPORT
    on_target_error: BlockdevOnError = BlockdevOnError.REPORT
    filter_node_name: Opt[str] = None
    copy_mode: MirrorCopyMode = MirrorCopyMode.BACKGROUND
    auto_finalize: bool = True
    auto_dismiss: bool = True
    target_is_zero: bool = False
    """The target reads as zeroes; that is not checked."""


class BlockJobDevice(QapiModel):
    """block-job-pause, block-job-resume, block-job-complete."""

    device: str
    """The id of the job, which by default is the device's name."""


class BlockJobCancel(QapiModel):
    """block-job-cancel."""

    device: str
    force: bool = False


class BlockJobSetSpeed(QapiModel):
    """block-job-set-speed."""

    device: str
    speed: Int


class BlockJobId(QapiModel):
    """block-job-dismiss, block-job-finalize."""

    id: str


class BlockJobChangeOptions(QapiModel):
    """What every request to change a job has."""

    id: str
    type: str


class BlockJobChangeOptionsMirror(BlockJobChangeOptions):
    """What can be changed of a mirror."""

    type: Literal["mirror"]
    copy_mode: MirrorCopyMode


class BlockJobChangeOptionsOther(BlockJobChangeOptions):
    """Nothing can be changed of other jobs."""

    type: Literal[
        "commit",
        "stream",
        "backup",
        "create",
        "amend",
        "snapshot-load",
        "snapshot-save",
        "snapshot-delete",
    ]


BlockJobChange = Annotated[
    BlockJobChangeOptionsMirror | BlockJobChangeOptionsOther, Discriminator("type")
]
"""block-job-change."""
