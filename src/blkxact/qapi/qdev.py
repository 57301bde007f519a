"""Devices of the guest.

QEMU's counterpart: ``qapi/qdev.json``.
"""

from __future__ import annotations

from .common import Opt, QapiModel


class DeviceAdd(QapiModel):
    """device_add. QEMU does not check its members with the schema; properties are not in it."""

    is_open = True

    driver: str
    bus: Opt[str] = None
    id: Opt[str] = None


class DeviceDel(QapiModel):
    """device_del."""

    id: str
    """The id or the QOM path."""


class DeviceSyncConfig(QapiModel):
    """device-sync-config."""

    id: str
    """An id or a path."""
