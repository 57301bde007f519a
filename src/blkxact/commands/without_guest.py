"""The commands of QEMU for which something is missing here: known by name, and refused.

``WITHOUT_GUEST`` is the one table of them. ``docs/commands-without-a-guest.md`` is made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.qapi.common import NoArguments, QapiModel
from blkxact.qapi.migration import MigrateSetParameters

from .command import Command


class Missing(StrEnum):
    """What a command needs and blkxact does not have."""

    CHARDEVS = "character devices besides those of its monitors"
    COLO = "a second machine that follows this one"
    CPUS = "virtual processors"
    DEVICE_TREE = "a device tree"
    DISPLAY = "a display"
    MEMORY = "guest memory"
    MIGRATION = "a migration"
    NETWORK = "network devices"
    NUMA = "a machine that is being built"
    REPLAY = "an execution that was recorded"
    ROCKER = "a Rocker switch"
    SEV = "encrypted guest memory"
    VIRTIO = "virtio devices with queues"
    XEN = "Xen"


_NAMES: Final[Mapping[Missing, str]] = MappingProxyType(
    {
        Missing.CHARDEVS: """
            chardev-add chardev-change chardev-remove chardev-send-break ringbuf-read ringbuf-write
        """,
        Missing.COLO: "xen-colo-do-checkpoint",
        Missing.CPUS: "cancel-vcpu-dirty-limit set-vcpu-dirty-limit",
        Missing.DEVICE_TREE: "dumpdtb",
        Missing.DISPLAY: """
            add_client change-vnc-password client_migrate_info display-reload display-update
            expire_password set_password
        """,
        Missing.MEMORY: "calc-dirty-rate dump-guest-memory memsave pmemsave",
        Missing.MIGRATION: """
            migrate migrate-continue migrate-incoming migrate-pause migrate-recover
            migrate-set-parameters migrate-start-postcopy migrate_cancel
        """,
        Missing.NETWORK: "announce-self netdev_add netdev_del set_link",
        Missing.NUMA: "set-numa-node",
        Missing.REPLAY: "replay-break replay-delete-break replay-seek",
        Missing.ROCKER: """
            query-rocker query-rocker-of-dpa-flows query-rocker-of-dpa-groups query-rocker-ports
        """,
        Missing.SEV: "query-sev-attestation-report sev-inject-launch-secret",
        Missing.VIRTIO: """
            x-query-virtio-queue-element x-query-virtio-queue-status x-query-virtio-status
            x-query-virtio-vhost-queue-status
        """,
        Missing.XEN: """
            xen-load-devices-state xen-save-devices-state xen-set-global-dirty-log
            xen-set-replication
        """,
    }
)

WITHOUT_GUEST: Final[Mapping[str, Missing]] = MappingProxyType(
    {name: missing for missing, names in _NAMES.items() for name in names.split()}
)
"""Command to what it needs."""

_MODELS: Final[Mapping[str, type[QapiModel]]] = MappingProxyType(
    {"migrate-set-parameters": MigrateSetParameters}
)
"""Arguments that the schema describes; those of all others are left out."""


def as_markdown() -> str:
    """Return ``docs/commands-without-a-guest.md``."""
    rows = [f"| {missing} | {', '.join(names.split())} |" for missing, names in _NAMES.items()]
    return "\n".join([_INTRODUCTION, *rows, ""])


_INTRODUCTION: Final = """\
# Commands without a guest

`blkxact system` knows all commands of qemu-system-x86_64 7.2 by name. These are refused, with one
error that says what is missing; `blkxact serve` does not list them. The arguments of all but
migrate-set-parameters are left out of `query-qmp-schema`.

This page is made from the table in `src/blkxact/commands/without_guest.py`.

| needs | commands |
|---|---|"""


def _refuse(name: str, missing: Missing) -> Callable[[BlockLayer, Any], None]:
    def handler(layer: BlockLayer, args: Any) -> None:
        del layer, args
        raise QmpError(f"The command {name} needs {missing}, which blkxact does not have")

    return handler


COMMANDS: Final = [
    Command(
        name,
        _refuse(name, missing),
        _MODELS.get(name, NoArguments),
        gen=False,
        system=missing is not Missing.CHARDEVS,
        locked=False,
    )
    for name, missing in WITHOUT_GUEST.items()
]
