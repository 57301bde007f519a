"""BLOCK_IMAGE_CORRUPTED, and the line on standard error that goes with it.

QEMU's counterpart: ``qcow2_signal_corruption``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

_log = logging.getLogger(__name__)

Emit = Callable[[str, Mapping[str, Any]], None]
"""Sends an event of that name with these data."""


class Named(Protocol):
    """What a report needs to know of a node."""

    node_name: str

    @property
    def root_device_name(self) -> str:
        """The name of the device whose root the node is, or ""."""


class Corruption(NamedTuple):
    """What a driver knows of BLOCK_IMAGE_CORRUPTED. ``fatal``: the image is of no use any more."""

    msg: str
    offset: int | None
    size: int | None
    fatal: bool


def report_corruption(emit: Emit, node: Named, found: Corruption) -> None:
    """Report to clients and the log what a driver found in the image of a node."""
    _log.warning(  # QEMU's message begins with the format, not with the name of the program
        "qcow2: %s: %s; further %scorruption events will be suppressed",
        "Marking image as corrupt" if found.fatal else "Image is corrupt",
        found.msg,
        "" if found.fatal else "non-fatal ",
        extra={"bare": True},
    )
    place = {"offset": found.offset, "size": found.size}
    emit(
        "BLOCK_IMAGE_CORRUPTED",
        {
            "device": node.root_device_name,
            "node-name": node.node_name,
            "msg": found.msg,
            **{name: value for name, value in place.items() if value is not None},
            "fatal": found.fatal,
        },
    )
