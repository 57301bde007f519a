"""The options of new images: BlockdevCreateOptions.

QEMU's counterpart: the last part of ``qapi/block-core.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from blkxact.enums import BlockdevQcow2Version, PreallocMode, Qcow2CompressionType

from .blockdev import DRIVER_MODELS, BlockdevDriver, BlockdevRef
from .common import Discriminator, Int, Opt, QapiModel, Size


class BlockdevCreateOptionsFile(QapiModel):
    """A new file of the host."""

    driver: Literal["file"]
    filename: str
    size: Size
    preallocation: PreallocMode = PreallocMode.OFF
    nocow: bool = False
    extent_size_hint: Opt[Size] = None


class BlockdevCreateOptionsQcow2(QapiModel):
    """A new qcow2 image on a node."""

    driver: Literal["qcow2"]
    file: BlockdevRef
    data_file: Opt[BlockdevRef] = None
    data_file_raw: bool = False
    extended_l2: bool = False
    size: Size
    version: BlockdevQcow2Version = BlockdevQcow2Version.V3
    backing_file: Opt[str] = None
    backing_fmt: Opt[BlockdevDriver] = None
    cluster_size: Size = 65536
    preallocation: PreallocMode = PreallocMode.OFF
    lazy_refcounts: bool = False
    refcount_bits: Int = 16
    compression_type: Qcow2CompressionType = Qcow2CompressionType.ZLIB


if TYPE_CHECKING:
    _OtherDriver: TypeAlias = str
else:
    _OtherDriver = Literal[
        tuple(name for name in sorted(DRIVER_MODELS) if name not in ("file", "qcow2"))
    ]


class BlockdevCreateOptionsOther(QapiModel):
    """The drivers that have a schema but make no images."""

    driver: _OtherDriver


BlockdevCreateOptions = Annotated[
    BlockdevCreateOptionsFile | BlockdevCreateOptionsQcow2 | BlockdevCreateOptionsOther,
    Discriminator("driver"),
]


class BlockdevCreate(QapiModel):
    """blockdev-create."""

    job_id: str
    options: BlockdevCreateOptions


class BlockdevAmendOptions(QapiModel):
    """What of an image can be amended: of encryption only, so nothing here."""

    driver: BlockdevDriver


class BlockdevAmend(QapiModel):
    """x-blockdev-amend."""

    job_id: str
    node_name: str
    options: Annotated[BlockdevAmendOptions, Discriminator("driver")]
    force: Opt[bool] = None
