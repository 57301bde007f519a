"""The features of commands, types, members and values, which clients find in the schema.

QEMU's counterpart: ``'features'`` in ``qapi/*.json``.
"""

from __future__ import annotations

from typing import Final

_UNSTABLE: Final = ["unstable"]
_DEPRECATED: Final = ["deprecated"]
_STABLE: Final = frozenset({"x-use-canonical-path-for-ramblock-id"})
"""Members that are called experimental and are not."""

FEATURES: Final = {
    "block-job-complete": _DEPRECATED,
    "block-job-dismiss": _DEPRECATED,
    "block-job-finalize": _DEPRECATED,
    "block-job-pause": _DEPRECATED,
    "block-job-resume": _DEPRECATED,
    "query-kvm": _DEPRECATED,
    "device-sync-config": _UNSTABLE,
    "x-accel-stats": _UNSTABLE,
    "x-query-interrupt-controllers": _UNSTABLE,
    "BlockdevOptionsFile": ["dynamic-auto-read-only"],
    "blockdev-snapshot": ["allow-write-only-overlay"],
    "device_add": ["json-cli", "json-cli-hotplug"],
    "drive-backup": _DEPRECATED,
    "human-monitor-command": ["savevm-monitor-nodes"],
    "nbd-server-add": _DEPRECATED,
    "nbd-server-remove": _DEPRECATED,
    "x-blockdev-amend": _UNSTABLE,
    "x-blockdev-change": _UNSTABLE,
    "x-blockdev-set-iothread": _UNSTABLE,
    "x-colo-lost-heartbeat": _UNSTABLE,
    "x-debug-block-dirty-bitmap-sha256": _UNSTABLE,
    "x-debug-query-block-graph": _UNSTABLE,
    "x-exit-preconfig": _UNSTABLE,
    "x-query-irq": _UNSTABLE,
    "x-query-jit": _UNSTABLE,
    "x-query-numa": _UNSTABLE,
    "x-query-opcount": _UNSTABLE,
    "x-query-profile": _UNSTABLE,
    "x-query-ramblock": _UNSTABLE,
    "x-query-rdma": _UNSTABLE,
    "x-query-roms": _UNSTABLE,
    "x-query-usb": _UNSTABLE,
    "x-query-virtio": _UNSTABLE,
    "x-query-virtio-queue-element": _UNSTABLE,
    "x-query-virtio-queue-status": _UNSTABLE,
    "x-query-virtio-status": _UNSTABLE,
    "x-query-virtio-vhost-queue-status": _UNSTABLE,
}
"""Of commands and of types."""

VALUE_FEATURES: Final = {
    "drive-backup": _DEPRECATED,
    "x-colo": _UNSTABLE,
    "x-ignore-shared": _UNSTABLE,
}
"""Of values of enumerations."""

_MEMBER_FEATURES: Final = {
    "BlockCommit.base": _DEPRECATED,
    "BlockCommit.top": _DEPRECATED,
    "BlockIOThrottle.device": _DEPRECATED,
    "BlockdevChangeMedium.device": _DEPRECATED,
    "BlockdevCloseTray.device": _DEPRECATED,
    "Eject.device": _DEPRECATED,
    "QueryMachines.compat-props": _UNSTABLE,
    "RngProperties.opened": _DEPRECATED,
    "SecretProperties.loaded": _DEPRECATED,
    "SchemaInfoEnum.values": _DEPRECATED,
    "TlsCredsX509Properties.loaded": _DEPRECATED,
}


def member_features(full_name: str) -> list[str] | None:
    """Return the features of a member (``STRUCT.MEMBER``)."""
    _, _, member = full_name.partition(".")
    if member.startswith("x-") and member not in _STABLE:
        return _UNSTABLE
    return _MEMBER_FEATURES.get(full_name)
