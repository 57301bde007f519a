"""Objects that are no devices.

Only the types that blkxact has are in the schema; the other types of ``qapi/qom.json`` are refused
as values of ``qom-type``.

QEMU's counterpart: ``qapi/qom.json``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator

from blkxact.enums import QCryptoTLSCredsEndpoint

from .common import Int, Opt, QapiModel


class ObjectOptionsBase(QapiModel):
    """What every object has."""

    qom_type: str
    id: str


class IothreadProperties(ObjectOptionsBase):
    """An iothread: accepted, the event loop does its work."""

    qom_type: Literal["iothread"]
    aio_max_batch: Opt[Int] = None
    thread_pool_min: Opt[Int] = None
    thread_pool_max: Opt[Int] = None
    poll_max_ns: Opt[Int] = None
    poll_grow: Opt[Int] = None
    poll_shrink: Opt[Int] = None


class ThrottleLimits(QapiModel):
    """Limits of a throttle group; requests or bytes per second, lengths of bursts in seconds."""

    iops_total: Opt[Int] = None
    iops_total_max: Opt[Int] = None
    iops_total_max_length: Opt[Int] = None
    iops_read: Opt[Int] = None
    iops_read_max: Opt[Int] = None
    iops_read_max_length: Opt[Int] = None
    iops_write: Opt[Int] = None
    iops_write_max: Opt[Int] = None
    iops_write_max_length: Opt[Int] = None
    bps_total: Opt[Int] = None
    bps_total_max: Opt[Int] = None
    bps_total_max_length: Opt[Int] = None
    bps_read: Opt[Int] = None
    bps_read_max: Opt[Int] = None
    bps_read_max_length: Opt[Int] = None
    bps_write: Opt[Int] = None
    bps_write_max: Opt[Int] = None
    bps_write_max_length: Opt[Int] = None
    iops_size: Opt[Int] = None
    """Bytes that count as one request."""


class ThrottleGroupProperties(ObjectOptionsBase):
    """A group of throttled nodes."""

    qom_type: Literal["throttle-group"]
    limits: Opt[ThrottleLimits] = None
    x_iops_total: Opt[Int] = None
    x_iops_total_max: Opt[Int] = None
    x_iops_total_max_length: Opt[Int] = None
    x_iops_read: Opt[Int] = None
    x_iops_read_max: Opt[Int] = None
    x_iops_read_max_length: Opt[Int] = None
    x_iops_write: Opt[Int] = None
    x_iops_write_max: Opt[Int] = None
    x_iops_write_max_length: Opt[Int] = None
    x_bps_total: Opt[Int] = None
    x_bps_total_max: Opt[Int] = None
    x_bps_total_max_length: Opt[Int] = None
    x_bps_read: Opt[Int] = None
    x_bps_read_max: Opt[Int] = None
    x_bps_read_max_length: Opt[Int] = None
    x_bps_write: Opt[Int] = None
    x_bps_write_max: Opt[Int] = None
    x_bps_write_max_length: Opt[Int] = None
    x_iops_size: Opt[Int] = None


class TlsCredsX509Properties(ObjectOptionsBase):
    """Certificates for TLS in a directory."""

    qom_type: Literal["tls-creds-x509"]
    verify_peer: bool = True
    """Take only peers with a certificate of our CA."""
    dir: Opt[str] = None
    endpoint: QCryptoTLSCredsEndpoint = QCryptoTLSCredsEndpoint.CLIENT
    priority: Opt[str] = None
    """Of GnuTLS; refused."""
    loaded: Opt[bool] = None
    sanity_check: bool = True
    passwordid: Opt[str] = None
    """The secret that decrypts the key; refused."""


ObjectOptions = Annotated[
    IothreadProperties | ThrottleGroupProperties | TlsCredsX509Properties,
    Discriminator("qom_type"),
]
"""object-add, ``--object`` on the command line."""


class ObjectDel(QapiModel):
    """object-del."""

    id: str


class QomPath(QapiModel):
    """qom-list."""

    path: str
    """An object's id, alone or below ``/objects``."""


class QomGet(QapiModel):
    """qom-get."""

    path: str
    property: str


class QomSet(QapiModel):
    """qom-set."""

    path: str
    property: str
    value: Any


class ThrottleLimitsValue(QapiModel):
    """The value of the property ``limits`` in ``qom-set``, named as errors name it."""

    limits: ThrottleLimits
