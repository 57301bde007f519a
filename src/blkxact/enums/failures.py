"""What follows a failed request."""

from __future__ import annotations

from .base import QapiEnum


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
