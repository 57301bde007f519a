"""What QEMU's schema has and that of blkxact has not, and why: one table.

A fact of a schema is a line such as ``blockdev-add: driver = qcow2`` or ``query-block:
return[].inserted optional``. Each fact that is missing here matches a row, and the test of the
schema compares every other with QEMU's. ``docs/schema.md`` is made from the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, get_args

from blkxact.qapi.blockdev import BlockdevDriver
from blkxact.qapi.qom import OBJECT_MODELS
from blkxact.qapi.returns import RETURNS

from . import machine
from .without_guest import WITHOUT_GUEST


@dataclass(frozen=True)
class Row:
    """One kind of things that are left out."""

    what: str
    why: str
    pattern: str
    """Matches the facts."""

    def matches(self, fact: str) -> bool:
        """Return whether a fact of QEMU's schema is left out by this row."""
        return re.search(self.pattern, fact) is not None


def _others(served: Iterable[str]) -> str:
    return f"(?!(?:{'|'.join(served)})(?:$|[> ]))"


_DRIVERS: Final = _others([*get_args(BlockdevDriver), "inet", "unix"])
_OBJECTS: Final = _others(OBJECT_MODELS)
_NODES: Final = (
    r"(blockdev-add|blockdev-create|blockdev-reopen|query-blockstats|x-blockdev-amend): "
)
_MACHINE: Final = [one.name for one in machine.COMMANDS if one.name not in RETURNS]
_EVENTS: Final = """
    ACPI_DEVICE_OST BALLOON_CHANGE COLO_EXIT DEVICE_UNPLUG_GUEST_ERROR DUMP_COMPLETED
    FAILOVER_NEGOTIATED GUEST_CRASHLOADED GUEST_PANICKED MEMORY_DEVICE_SIZE_CHANGE MEMORY_FAILURE
    MEM_UNPLUG_ERROR MIGRATION MIGRATION_PASS NETDEV_STREAM_CONNECTED NETDEV_STREAM_DISCONNECTED
    NIC_RX_FILTER_CHANGED PR_MANAGER_STATUS_CHANGED RDMA_GID_STATUS_CHANGED RTC_CHANGE
    SPICE_CONNECTED SPICE_DISCONNECTED SPICE_INITIALIZED SPICE_MIGRATE_COMPLETED SUSPEND
    SUSPEND_DISK UNPLUG_PRIMARY VFU_CLIENT_HANGUP VNC_CONNECTED VNC_DISCONNECTED VNC_INITIALIZED
    VSERPORT_CHANGE WAKEUP WATCHDOG
"""

LEFT_OUT: Final = [
    Row(
        "drivers of nodes",
        "blkxact does not have them, as a QEMU that was built without",
        rf"(driver|backing-fmt) = {_DRIVERS}|{_NODES}.*<{_DRIVERS}[^>]*>",
    ),
    Row(
        "types of objects",
        "only guests, networks, displays and authorization need them",
        rf"object-add: (qom-type = {_OBJECTS}|<{_OBJECTS}[^>]*>)",
    ),
    Row(
        "exports `fuse`, `vduse-blk`, `vhost-user-blk`",
        "exports are served over NBD",
        r"(block-export-add|query-block-exports): .*(type = |<)(fuse|vduse-blk|vhost-user-blk)",
    ),
    Row(
        "addresses `vsock`, `mptcp`",
        "sockets are TCP or Unix",
        r"(addr|server)(\.type = |<)vsock|\.mptcp\b",
    ),
    Row(
        "encryption: `encrypt` of qcow2, `luks`",
        "images that are encrypted are refused",
        r"\.encrypt\b|format-specific(\.type = |<)luks",
    ),
    Row(
        "`ImageInfoSpecific` of `rbd` and `vmdk`",
        "their drivers are left out",
        r"format-specific(\.type = |<)(rbd|vmdk)",
    ),
    Row(
        "arguments and results of [commands without a guest](commands-without-a-guest.md)",
        "they are refused whatever their arguments are",
        rf"^({'|'.join(WITHOUT_GUEST)}): ",
    ),
    Row(
        "results of queries about the machine",
        "most are empty or constant",
        rf"^({'|'.join(_MACHINE)}): return",
    ),
    Row(
        "`filter` of query-stats; keys of send-key; events of input-send-event",
        "they are not looked at",
        r"query-stats: |send-key: keys\[\]|input-send-event: events\[\]",
    ),
    Row(
        "event `BLOCK_IO_ERROR`",
        "there are no requests of a guest's device",
        r"^BLOCK_IO_ERROR: ",
    ),
    Row(
        "events of guests, displays, networks and migrations",
        "none of them happens",
        rf"^({'|'.join(_EVENTS.split())})\b",
    ),
]


def as_markdown() -> str:
    """Return ``docs/schema.md``."""
    rows = [f"| {row.what} | {row.why} |" for row in LEFT_OUT]
    return "\n".join([_INTRODUCTION, *rows, ""])


_INTRODUCTION: Final = """\
# The schema

`query-qmp-schema` is made from the models that requests are checked with
(`src/blkxact/qapi/`) and from the types of results (`src/blkxact/qapi/returns.py`). Of commands,
events and types that QEMU 7.2 has as well, every member, type, enumeration and feature is QEMU's;
what is left out is listed here. This page is made from the table in
`src/blkxact/commands/left_out.py`, which the tests use to compare the two.

Only blkxact has: the command `query-transactions`, the event `TRANSACTION_COMPLETED`, `id` of a
transaction's properties, and the completion mode `deferred`.

| left out | why |
|---|---|"""
