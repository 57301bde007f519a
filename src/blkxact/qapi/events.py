"""The data of the events that blkxact sends. Nothing is sent by way of these models: they document.

QEMU's counterpart: the events of ``qapi/block-core.json``, ``job.json``, ``qdev.json`` and
``run-state.json``; ``TRANSACTION_COMPLETED`` is ours.
"""

from __future__ import annotations

from typing import Final, Literal

from blkxact.enums import (
    ActionCompletionMode,
    BitmapOutcome,
    BlockErrorAction,
    IoOperationType,
    JobStatus,
    JobType,
    QuorumOpType,
    ShutdownCause,
    TransactionStatus,
)

from .common import Array, Int, NoArguments, Opt, QapiModel, UInt64


class JobStatusChange(QapiModel):
    """JOB_STATUS_CHANGE: a job has another status."""

    id: str
    status: JobStatus


class BlockJobProgress(QapiModel):
    """BLOCK_JOB_CANCELLED, BLOCK_JOB_READY."""

    type: JobType
    device: str
    """The id of the job."""
    len: Int
    """Bytes to do, by the latest guess."""
    offset: Int
    """Bytes done."""
    speed: Int
    """Bytes per second; 0 is without a limit."""


class BlockJobCompleted(BlockJobProgress):
    """BLOCK_JOB_COMPLETED."""

    error: Opt[str] = None
    """There if the job failed."""


class BlockJobError(QapiModel):
    """BLOCK_JOB_ERROR: a request of a job failed."""

    device: str
    operation: IoOperationType
    action: BlockErrorAction


class BlockJobPending(QapiModel):
    """BLOCK_JOB_PENDING: a job waits for job-finalize."""

    type: JobType
    id: str


class BlockImageCorrupted(QapiModel):
    """BLOCK_IMAGE_CORRUPTED: damage was found in the metadata of an image."""

    device: str
    """The name of the device whose medium this is, or ""."""
    node_name: Opt[str] = None
    msg: str
    offset: Opt[Int] = None
    """Where in the file the access was that was refused."""
    size: Opt[Int] = None
    fatal: bool
    """The image is marked as corrupt on disk and of no use before it was repaired."""


class BlockExportDeleted(QapiModel):
    """BLOCK_EXPORT_DELETED: an export is gone; its id may be used again."""

    id: str


class BlockWriteThreshold(QapiModel):
    """BLOCK_WRITE_THRESHOLD: a write went beyond the threshold, which is gone now."""

    node_name: str
    amount_exceeded: UInt64
    """Bytes."""
    write_threshold: UInt64


class DeviceDeleted(QapiModel):
    """DEVICE_DELETED."""

    device: Opt[str] = None
    path: str


class DeviceTrayMoved(QapiModel):
    """DEVICE_TRAY_MOVED."""

    device: str
    id: str
    tray_open: bool


class QuorumFailure(QapiModel):
    """QUORUM_FAILURE: too few children of a quorum agree."""

    reference: str
    """The name of the device, or of the node."""
    sector_num: Int
    sectors_count: Int


class QuorumReportBad(QapiModel):
    """QUORUM_REPORT_BAD: a child of a quorum fails or disagrees."""

    type: QuorumOpType
    error: Opt[str] = None
    """There if the child failed."""
    node_name: str
    sector_num: Int
    sectors_count: Int


class Reset(QapiModel):
    """RESET: the machine begins again."""

    guest: bool
    reason: ShutdownCause


class Shutdown(QapiModel):
    """SHUTDOWN: the daemon ends."""

    guest: bool
    reason: ShutdownCause


class TransactionJob(QapiModel):
    """What became of one job of a transaction."""

    id: Opt[str] = None
    type: JobType
    error: Opt[str] = None


class TransactionBitmap(QapiModel):
    """What became of one bitmap of a transaction."""

    node: str
    name: str
    outcome: BitmapOutcome


class TransactionCompleted(QapiModel):
    """TRANSACTION_COMPLETED: the last job of a transaction that has an ``id`` is over."""

    id: str
    completion_mode: ActionCompletionMode
    status: Literal[
        TransactionStatus.COMPLETED, TransactionStatus.FAILED, TransactionStatus.CANCELLED
    ]
    jobs: Array[TransactionJob]
    bitmaps: Array[TransactionBitmap]


EVENTS: Final[dict[str, type[QapiModel]]] = {
    "BLOCK_EXPORT_DELETED": BlockExportDeleted,
    "BLOCK_IMAGE_CORRUPTED": BlockImageCorrupted,
    "BLOCK_JOB_CANCELLED": BlockJobProgress,
    "BLOCK_JOB_COMPLETED": BlockJobCompleted,
    "BLOCK_JOB_ERROR": BlockJobError,
    "BLOCK_JOB_PENDING": BlockJobPending,
    "BLOCK_JOB_READY": BlockJobProgress,
    "BLOCK_WRITE_THRESHOLD": BlockWriteThreshold,
    "DEVICE_DELETED": DeviceDeleted,
    "DEVICE_TRAY_MOVED": DeviceTrayMoved,
    "JOB_STATUS_CHANGE": JobStatusChange,
    "POWERDOWN": NoArguments,
    "QUORUM_FAILURE": QuorumFailure,
    "QUORUM_REPORT_BAD": QuorumReportBad,
    "RESET": Reset,
    "RESUME": NoArguments,
    "SHUTDOWN": Shutdown,
    "STOP": NoArguments,
    "TRANSACTION_COMPLETED": TransactionCompleted,
}
