"""Making images, byte for byte as ``qemu-img create`` makes them.

QEMU's counterpart: ``qcow2_co_create``; ``qapi/block-core.json`` (BlockdevCreateOptionsQcow2).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Final, NamedTuple

from blkxact.block.types import SECTOR
from blkxact.enums import PreallocMode, Qcow2CompressionType
from blkxact.errors import QmpError, strerror

from . import compression
from .data_file import NAME as DATA_FILE
from .image import Image, read_header
from .layout import (
    AUTOCLEAR_RAW_DATA_FILE,
    COMPATIBLE_LAZY_REFCOUNTS,
    COMPRESSION_NAMES,
    COMPRESSION_ZLIB,
    DEFAULT_CLUSTER_SIZE,
    INCOMPATIBLE_COMPRESSION,
    INCOMPATIBLE_DATA_FILE,
    INCOMPATIBLE_EXTENDED_L2,
    MAX_BACKING_FORMAT,
    MAX_BACKING_NAME,
    MAX_CLUSTER_BITS,
    MIN_CLUSTER_BITS,
    SUBCLUSTER_BITS,
    Header,
)
from .metadata_file import Child, table_to_bytes
from .resize import resize
from .unmap import Unmapper
from .writer import Writer


class CreateOptions(NamedTuple):
    """BlockdevCreateOptionsQcow2, but for ``file``."""

    size: int
    version: int = 3
    cluster_size: int = DEFAULT_CLUSTER_SIZE
    refcount_bits: int = 16
    lazy_refcounts: bool = False
    backing_file: str | None = None
    backing_format: str | None = None
    preallocation: PreallocMode = PreallocMode.OFF
    compression_type: Qcow2CompressionType = Qcow2CompressionType.ZLIB
    extended_l2: bool = False
    data_file: str | None = None
    """The name of an external data file."""
    data_file_raw: bool = False


_VERSION_3: Final = "compatibility level 1.1 and above (use version=v3 or greater)"


def validate(options: CreateOptions) -> None:
    """Raise ``QmpError``, in QEMU's words, for what cannot be made."""
    bits = options.cluster_size.bit_length() - 1
    if options.size % SECTOR:
        raise QmpError(f"Image size must be a multiple of {SECTOR} bytes")
    if options.size < 0:
        raise QmpError("Image size cannot be negative")
    if options.extended_l2 and options.version == 2:
        raise QmpError(f"Extended L2 entries are only supported with {_VERSION_3}")
    if options.cluster_size != 1 << bits or not MIN_CLUSTER_BITS <= bits <= MAX_CLUSTER_BITS:
        raise QmpError(
            f"Cluster size must be a power of two between {1 << MIN_CLUSTER_BITS} and "
            f"{1 << (MAX_CLUSTER_BITS - 10)}k"
        )
    if options.extended_l2 and bits < MIN_CLUSTER_BITS + SUBCLUSTER_BITS:
        raise QmpError(
            "Extended L2 entries are only supported with cluster sizes of at least "
            f"{1 << (MIN_CLUSTER_BITS + SUBCLUSTER_BITS)} bytes"
        )
    _validate_backing(options)
    _validate_version(options)


def _validate_backing(options: CreateOptions) -> None:
    if (
        options.backing_file
        and options.preallocation != PreallocMode.OFF
        and not options.extended_l2
    ):
        raise QmpError(
            "Backing file and preallocation can only be used at the same time if extended_l2 is on"
        )
    if options.backing_format is not None and options.backing_file is None:
        raise QmpError("Backing format cannot be used without backing file")
    if options.backing_file is not None and len(options.backing_file) > MAX_BACKING_NAME:
        raise QmpError(
            f"Could not assign backing file '{options.backing_file}' with format "
            f"'{options.backing_format}': Invalid argument"
        )


def _validate_version(options: CreateOptions) -> None:
    bits = options.refcount_bits
    if options.version not in (2, 3):
        raise QmpError(f"Invalid parameter 'v{options.version}'")
    if options.version < 3 and options.lazy_refcounts:
        raise QmpError(f"Lazy refcounts only supported with {_VERSION_3}")
    if not 1 <= bits <= 64 or bits & (bits - 1):
        raise QmpError("Refcount width must be a power of two and may not exceed 64 bits")
    if options.version < 3 and bits != 16:
        raise QmpError(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above "
            "(use version=v3 or greater)"
        )
    _validate_data_file(options)
    if options.version < 3 and options.compression_type != Qcow2CompressionType.ZLIB:
        raise QmpError(f"Non-zlib compression type is only supported with {_VERSION_3}")


def _validate_data_file(options: CreateOptions) -> None:
    if options.data_file_raw and options.data_file is None:
        raise QmpError("data-file-raw requires data-file")
    if options.data_file_raw and options.backing_file is not None:
        raise QmpError("Backing file and data-file-raw cannot be used at the same time")
    if options.data_file is not None and options.version < 3:
        raise QmpError(
            "External data files are only supported with compatibility level 1.1 and above "
            "(use version=v3 or greater)"
        )


async def create(child: Child, options: CreateOptions, data_file: Child | None = None) -> None:
    """Make an image in a file; raises ``QmpError``.

    ``child`` and ``data_file``, which goes with the option of that name, may be a ``StorageChild``.
    What the data file holds stays and shows where ``preallocation`` or ``data_file_raw`` says so.
    The file is no image after a failure or a crash: the header is written last. What else the file
    holds stays where it is, in free clusters.
    """
    validate(options)
    await write_skeleton(child, options)
    children = {"file": child} if data_file is None else {"file": child, DATA_FILE: data_file}
    await complete(children, options)


async def write_skeleton(child: Child, options: CreateOptions) -> None:
    """Write refcount table and one refcount block, which counts nothing; raises ``QmpError``.

    Until the image is complete there are zeroes where its header will be.
    """
    size = options.cluster_size
    try:
        await child.pwrite(0, bytes(size))
        await child.flush()
    except OSError as error:
        raise QmpError(f"Could not write qcow2 header: {strerror(error)}") from error
    table = table_to_bytes(array("Q", [2 * size]))
    try:
        await child.pwrite(size, table.ljust(2 * size, b"\0"))
    except OSError as error:
        raise QmpError(f"Could not write refcount table: {strerror(error)}") from error


async def complete(children: Mapping[str, Child], options: CreateOptions) -> None:
    """Make an image of a skeleton: its children are ``file`` and maybe ``data-file``.

    Raises ``QmpError``.
    """
    image = Image(children, _bare_header(options), writable=True)
    try:
        await image.refcounts.load()
    except OSError as error:
        raise QmpError(f"Could not initialize refcount handling: {strerror(error)}") from error
    try:
        image.protect()
        await _complete(image, options)
    except OSError as error:
        raise QmpError(f"Could not update qcow2 header: {strerror(error)}") from error
    await read_header(children["file"])  # whether it is there: null-co keeps nothing


def _bare_header(options: CreateOptions) -> Header:
    kind = next(k for k, name in COMPRESSION_NAMES.items() if name == options.compression_type)
    header = Header(
        version=options.version,
        cluster_bits=options.cluster_size.bit_length() - 1,
        refcount_table_offset=options.cluster_size,
        refcount_table_clusters=1,
        refcount_order=options.refcount_bits.bit_length() - 1,
        compatible=COMPATIBLE_LAZY_REFCOUNTS if options.lazy_refcounts else 0,
        incompatible=0 if kind == COMPRESSION_ZLIB else INCOMPATIBLE_COMPRESSION,
        autoclear=AUTOCLEAR_RAW_DATA_FILE if options.data_file_raw else 0,
        compression_type=kind,
        data_file=options.data_file,
    )
    if options.extended_l2:
        header.incompatible |= INCOMPATIBLE_EXTENDED_L2
    if options.data_file is not None:
        header.incompatible |= INCOMPATIBLE_DATA_FILE
    compression.validate(header)
    return header


async def _complete(image: Image, options: CreateOptions) -> None:
    """Count the skeleton's clusters, give the disk its size, and name the backing file."""
    await image.refcounts.change(0, 3, 1)
    await image.refcounts.write_dirty()
    writer = Writer(image, _read_nothing)
    unmapper = Unmapper(image, writer, _read_nothing)
    try:
        await resize(image, writer, unmapper, options.size, options.preallocation)
    except QmpError as error:
        raise QmpError(f"Could not resize image: {error.desc}") from error
    if options.backing_file is not None:
        fmt = options.backing_format
        image.header.backing_file = options.backing_file
        image.header.backing_format = fmt and fmt[:MAX_BACKING_FORMAT]
    await image.flush()
    await image.write_header()


async def _read_nothing(offset: int, length: int) -> bytes:
    """Return what a new disk holds."""
    del offset
    return bytes(length)
