"""What queries report of a qcow2 image: ImageInfoSpecificQCow2 of ``qapi/block-core.json``."""

from __future__ import annotations

from typing import Any

from .bitmap_directory import BitmapDirectory
from .image import Image
from .layout import COMPATIBLE_LAZY_REFCOUNTS, COMPRESSION_NAMES, INCOMPATIBLE_CORRUPT, Header


def describe(header: Header, bitmaps: BitmapDirectory) -> dict[str, Any]:
    """Return ImageInfoSpecific."""
    data: dict[str, Any] = {"compat": "0.10", "refcount-bits": header.refcount_bits}
    if header.version >= 3:
        data = {
            "compat": "1.1",
            "compression-type": COMPRESSION_NAMES[header.compression_type],
            "lazy-refcounts": bool(header.compatible & COMPATIBLE_LAZY_REFCOUNTS),
            "refcount-bits": header.refcount_bits,
            **_describe_data_file(header),
            "corrupt": bool(header.incompatible & INCOMPATIBLE_CORRUPT),
            "extended-l2": header.has_extended_l2,
        }
        stored = bitmaps.describe()
        if stored:
            data["bitmaps"] = stored
    else:
        data["compression-type"] = COMPRESSION_NAMES[header.compression_type]
    return {"type": "qcow2", "data": data}


def limits_of(image: Image) -> dict[str, int]:
    """Return what of BlockLimitsInfo the image decides."""
    units = {"write-zeroes-alignment": image.subcluster_size}
    return units | {"discard-alignment": image.cluster_size}


def _describe_data_file(header: Header) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if header.data_file is not None:
        described["data-file"] = header.data_file
    if header.has_data_file:
        described["data-file-raw"] = header.data_file_raw
    return described
