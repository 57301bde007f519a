"""Types of objects and devices.

QEMU's counterpart: ``qapi/qom.json``, ``qapi/qdev.json``.
"""

from __future__ import annotations

from .common import Opt, QapiModel


class QomListTypes(QapiModel):
    """qom-list-types."""

    implements: Opt[str] = None
    abstract: Opt[bool] = None


class TypeName(QapiModel):
    """qom-list-properties, device-list-properties."""

    typename: str
