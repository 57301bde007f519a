"""Trace events by name: none of QEMU's is here.

``serve -v`` prints blkxact's own (``runtime/trace.py``), which cannot be switched one by one.

QEMU's counterpart: ``qapi/trace.json``, ``trace/qmp.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.qapi.trace import TraceEventGetState, TraceEventSetState

from .command import Command


def get_state(layer: BlockLayer, args: TraceEventGetState) -> list[dict[str, Any]]:
    """trace-event-get-state."""
    del layer
    _check(args.name, args.vcpu)
    return []


def set_state(layer: BlockLayer, args: TraceEventSetState) -> None:
    """trace-event-set-state."""
    del layer
    _check(args.name, args.vcpu)


def _check(name: str, vcpu: int | None) -> None:
    """Refuse a name; a pattern may match nothing."""
    if vcpu is not None:
        raise QmpError(f"invalid vCPU index {vcpu}")
    if "*" not in name and "?" not in name:
        raise QmpError(f'unknown event "{name}"')


COMMANDS: Final = [
    Command("trace-event-get-state", get_state, TraceEventGetState, system=True, locked=False),
    Command("trace-event-set-state", set_state, TraceEventSetState, system=True, locked=False),
]
