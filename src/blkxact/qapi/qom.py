"""Objects that are no devices.

Only the types that blkxact has are in the schema; the other types of ``qapi/qom.json`` are refused
as values of ``qom-type``.

QEMU's counterpart: ``qapi/qom.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args

from blkxact.enums import OnOffAuto, QCryptoTLSCredsEndpoint

from .common import Array, Discriminator, Int, Opt, QapiModel, Size, UInt16, UInt32, literals


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
    poll_weight: Opt[Int] = None


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


class SecretProperties(ObjectOptionsBase):
    """A secret: kept, as nothing that needs one is served."""

    qom_type: Literal["secret"]
    loaded: Opt[bool] = None
    format: Literal["raw", "base64"] = "raw"
    keyid: Opt[str] = None
    iv: Opt[str] = None
    data: Opt[str] = None
    file: Opt[str] = None


class MemoryBackendProperties(ObjectOptionsBase):
    """Memory of the guest that is not there: accepted, and not allocated."""

    qom_type: Literal["memory-backend-ram"]
    dump: Opt[bool] = None
    host_nodes: Opt[Array[UInt16]] = None
    merge: Opt[bool] = None
    policy: Literal["default", "preferred", "bind", "interleave"] = "default"
    prealloc: bool = False
    prealloc_threads: UInt32 = 1
    prealloc_context: Opt[str] = None
    share: bool = False
    reserve: bool = True
    size: Size
    x_use_canonical_path_for_ramblock_id: Opt[bool] = None


class MemoryBackendFileProperties(MemoryBackendProperties):
    """The same, in a file."""

    qom_type: Literal["memory-backend-file"]  # type: ignore[assignment]
    align: Opt[Size] = None
    discard_data: bool = False
    mem_path: str
    pmem: bool = False
    readonly: bool = False
    offset: Size = 0
    rom: OnOffAuto = OnOffAuto.AUTO


class MemoryBackendMemfdProperties(MemoryBackendProperties):
    """The same, in an anonymous file."""

    qom_type: Literal["memory-backend-memfd"]  # type: ignore[assignment]
    hugetlb: bool = False
    hugetlbsize: Opt[Size] = None
    seal: bool = True


class RngProperties(ObjectOptionsBase):
    """Random numbers for the guest that is not there: kept."""

    qom_type: Literal["rng-builtin"]
    opened: bool = False


class RngRandomProperties(RngProperties):
    """The same, from a file."""

    qom_type: Literal["rng-random"]  # type: ignore[assignment]
    filename: str = "/dev/urandom"


ObjectOptions = Annotated[
    IothreadProperties
    | MemoryBackendFileProperties
    | MemoryBackendMemfdProperties
    | MemoryBackendProperties
    | RngProperties
    | RngRandomProperties
    | SecretProperties
    | ThrottleGroupProperties
    | TlsCredsX509Properties,
    Discriminator("qom_type"),
]
"""object-add, ``--object`` on the command line."""

OBJECT_MODELS: Final[Mapping[str, type[ObjectOptionsBase]]] = MappingProxyType(
    {literals(model, "qom_type")[0]: model for model in get_args(get_args(ObjectOptions)[0])}
)
"""The models by type."""


class ObjectDel(QapiModel):
    """object-del."""

    id: str


class QomPaths(QapiModel):
    """qom-list-get."""

    paths: Array[str]


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
