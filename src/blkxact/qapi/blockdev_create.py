"""The options of new images: BlockdevCreateOptions.

QEMU's counterpart: the last part of ``qapi/block-core.json``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator

from blkxact.enums import BlockdevDriver, BlockdevQcow2Version, PreallocMode, Qcow2CompressionType

from .blockdev import BlockdevRef
from .common import Int, Opt, QapiModel, Size


class BlockdevCreateOptionsFile(QapiModel):
    """A new file of the host."""

    driver: Literal[BlockdevDriver.FILE]
    filename: str
    size: Size
    preallocation: PreallocMode = PreallocMode.OFF
    nocow: bool = False
    extent_size_hint: Opt[Size] = None


class BlockdevCreateOptionsQcow2(QapiModel):
    """A new qcow2 image on a node."""

    driver: Literal[BlockdevDriver.QCOW2]
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


class BlockdevCreateOptionsOther(QapiModel):
    """The drivers that have a schema but make no images."""

    driver: Literal[
        BlockdevDriver.BLKDEBUG,
        BlockdevDriver.COMPRESS,
        BlockdevDriver.COPY_BEFORE_WRITE,
        BlockdevDriver.HOST_DEVICE,
        BlockdevDriver.NBD,
        BlockdevDriver.NULL_AIO,
        BlockdevDriver.NULL_CO,
        BlockdevDriver.RAW,
        BlockdevDriver.SNAPSHOT_ACCESS,
        BlockdevDriver.THROTTLE,
    ]


BlockdevCreateOptions = Annotated[
    BlockdevCreateOptionsFile | BlockdevCreateOptionsQcow2 | BlockdevCreateOptionsOther,
    Discriminator("driver"),
]


class BlockdevCreate(QapiModel):
    """blockdev-create."""

    job_id: str
    options: BlockdevCreateOptions
