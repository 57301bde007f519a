"""The monitor itself.

QEMU's counterpart: ``qapi/control.json``. The commands without arguments (``query-version``,
``query-commands``, ``quit``) use ``common.NoArguments``.
"""

from __future__ import annotations

from blkxact.enums import MonitorMode, QMPCapability

from .common import Array, Opt, QapiModel


class QmpCapabilities(QapiModel):
    """qmp_capabilities."""

    enable: Opt[Array[QMPCapability]] = None


class MonitorOptions(QapiModel):
    """``--monitor`` on the command line."""

    id: Opt[str] = None
    mode: MonitorMode = MonitorMode.CONTROL
    pretty: bool = False
    chardev: str
