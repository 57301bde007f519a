"""The ``transaction`` command: a union of actions, and what they have in common.

``TransactionProperties`` has two things of our own: the completion mode ``deferred`` and ``id``.

QEMU's counterpart: ``qapi/transaction.json``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator

from blkxact.enums import ActionCompletionMode

from .block_core import (
    BlockdevBackup,
    BlockdevSnapshot,
    BlockdevSnapshotInternal,
    BlockdevSnapshotSync,
    BlockDirtyBitmap,
    BlockDirtyBitmapAdd,
    BlockDirtyBitmapMerge,
    DriveBackup,
)
from .common import Array, Opt, QapiModel


class Abort(QapiModel):
    """Makes the transaction fail."""


class AbortWrapper(QapiModel):
    """Action ``abort``."""

    type: Literal["abort"]
    data: Abort


class BlockDirtyBitmapAddWrapper(QapiModel):
    """Action ``block-dirty-bitmap-add``."""

    type: Literal["block-dirty-bitmap-add"]
    data: BlockDirtyBitmapAdd


class BlockDirtyBitmapWrapper(QapiModel):
    """The actions that name one bitmap."""

    type: Literal[
        "block-dirty-bitmap-remove",
        "block-dirty-bitmap-clear",
        "block-dirty-bitmap-enable",
        "block-dirty-bitmap-disable",
    ]
    data: BlockDirtyBitmap


class BlockDirtyBitmapMergeWrapper(QapiModel):
    """Action ``block-dirty-bitmap-merge``."""

    type: Literal["block-dirty-bitmap-merge"]
    data: BlockDirtyBitmapMerge


class BlockdevBackupWrapper(QapiModel):
    """Action ``blockdev-backup``."""

    type: Literal["blockdev-backup"]
    data: BlockdevBackup


class BlockdevSnapshotWrapper(QapiModel):
    """Action ``blockdev-snapshot``."""

    type: Literal["blockdev-snapshot"]
    data: BlockdevSnapshot


class BlockdevSnapshotInternalWrapper(QapiModel):
    """Action ``blockdev-snapshot-internal-sync``."""

    type: Literal["blockdev-snapshot-internal-sync"]
    data: BlockdevSnapshotInternal


class BlockdevSnapshotSyncWrapper(QapiModel):
    """Action ``blockdev-snapshot-sync``."""

    type: Literal["blockdev-snapshot-sync"]
    data: BlockdevSnapshotSync


class DriveBackupWrapper(QapiModel):
    """Action ``drive-backup``."""

    type: Literal["drive-backup"]
    data: DriveBackup


TransactionAction = Annotated[
    AbortWrapper
    | BlockDirtyBitmapAddWrapper
    | BlockDirtyBitmapWrapper
    | BlockDirtyBitmapMergeWrapper
    | BlockdevBackupWrapper
    | BlockdevSnapshotWrapper
    | BlockdevSnapshotInternalWrapper
    | BlockdevSnapshotSyncWrapper
    | DriveBackupWrapper,
    Discriminator("type"),
]


class TransactionProperties(QapiModel):
    """What holds for the transaction as a whole."""

    completion_mode: Opt[ActionCompletionMode] = None
    """``None`` is the server's default: what ``--completion-mode`` says, or ``individual``."""
    id: Opt[str] = None
    """Names the transaction in ``query-transactions`` and its TRANSACTION_COMPLETED (not QEMU)."""


class Transaction(QapiModel):
    """transaction."""

    actions: Array[TransactionAction]
    properties: Opt[TransactionProperties] = None
