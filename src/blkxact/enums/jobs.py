"""Jobs and transactions."""

from __future__ import annotations

from .base import QapiEnum


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
