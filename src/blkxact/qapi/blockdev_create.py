"""The options of new images: BlockdevCreateOptions.

QEMU's counterpart: the last part of ``qapi/block-core.json``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator

from .blockdev import BlockdevDriver, BlockdevRef, PreallocMode
from .common import Int, Opt, QapiModel, Size


class BlockdevCreateOptionsFile(QapiModel):
    """A new file of the host."""

    driver: Literal["file"]
    filename: str
    size: Size
    preallocation: PreallocMode = "off"
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
    version: Literal["v2", "v3"] = "v3"
    backing_file: Opt[str] = None
    backing_fmt: Opt[BlockdevDriver] = None
    cluster_size: Size = 65536
    preallocation: PreallocMode = "off"
    lazy_refcounts: bool = False
    refcount_bits: Int = 16
    compression_type: Literal["zlib", "zstd"] = "zlib"


class BlockdevCreateOptionsOther(QapiModel):
    """The drivers that have a schema but make no images."""

    driver: Literal[
        "blkdebug",
        "compress",
        "copy-before-write",
        "host_device",
        "nbd",
        "null-aio",
        "null-co",
        "raw",
        "snapshot-access",
        "throttle",
    ]


BlockdevCreateOptions = Annotated[
    BlockdevCreateOptionsFile | BlockdevCreateOptionsQcow2 | BlockdevCreateOptionsOther,
    Discriminator("driver"),
]


class BlockdevCreate(QapiModel):
    """blockdev-create."""

    job_id: str
    options: BlockdevCreateOptions
