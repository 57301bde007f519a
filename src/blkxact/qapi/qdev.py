"""Devices of the guest.

QEMU's counterpart: ``qapi/qdev.json``.
"""

from __future__ import annotations

from pydantic import ConfigDict

from .common import Opt, QapiModel


class DeviceAdd(QapiModel):
    """device_add. The properties of the device are in ``model_extra``, by wire name."""

    model_config = ConfigDict(extra="allow")

    driver: str
    bus: Opt[str] = None
    id: Opt[str] = None


class DeviceDel(QapiModel):
    """device_del."""

    id: str
    """The id or the QOM path."""
