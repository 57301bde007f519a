"""The monitor and the machine."""

from __future__ import annotations

from .base import QapiEnum


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


class QCryptoTLSCredsEndpoint(QapiEnum):
    """QCryptoTLSCredsEndpoint."""

    CLIENT = "client"
    SERVER = "server"


class BlockExportRemoveMode(QapiEnum):
    """BlockExportRemoveMode."""

    SAFE = "safe"
    HARD = "hard"
