"""Trace events.

QEMU's counterpart: ``qapi/trace.json``.
"""

from __future__ import annotations

from .common import Int, Opt, QapiModel


class TraceEventGetState(QapiModel):
    """trace-event-get-state."""

    name: str
    """A name, or a pattern with ``*`` and ``?``."""
    vcpu: Opt[Int] = None


class TraceEventSetState(QapiModel):
    """trace-event-set-state."""

    name: str
    enable: bool
    ignore_unavailable: Opt[bool] = None
    vcpu: Opt[Int] = None
