"""The run state of the machine.

QEMU's counterpart: ``qapi/run-state.json``.
"""

from __future__ import annotations

from typing import Literal

from .common import Opt, QapiModel

WatchdogAction = Literal["reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"]


class SetAction(QapiModel):
    """set-action: accepted; there is no guest to act upon."""

    reboot: Opt[Literal["reset", "shutdown"]] = None
    shutdown: Opt[Literal["poweroff", "pause"]] = None
    panic: Opt[Literal["pause", "shutdown", "exit-failure", "none"]] = None
    watchdog: Opt[WatchdogAction] = None


class WatchdogSetAction(QapiModel):
    """watchdog-set-action: accepted; there is no guest to act upon."""

    action: WatchdogAction
