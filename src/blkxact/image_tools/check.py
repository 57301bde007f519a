"""Checks of one image, damaged as it may be, by itself: its backing file is not opened.

Invariants:

* The image is opened below the format, so what is too damaged for use can still be looked at.
* The locks are those of an open image: nobody writes to it while it is checked, unless
  ``force_share`` is given, and a repair is alone with it.

QEMU's counterpart: ``collect_image_check`` in ``qemu-img.c``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import Any

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission
from blkxact.drivers import find_driver
from blkxact.drivers.image_options import image_options
from blkxact.drivers.probe import PROBE_SIZE, probe_format
from blkxact.drivers.qcow2.bitmap_repair import drop_bad_bitmaps
from blkxact.drivers.qcow2.check import CheckResult, check_image
from blkxact.drivers.qcow2.image import clear_unknown_features, open_image
from blkxact.errors import QmpError, strerror
from blkxact.storage.os_file import is_device

from .open_images import CACHE_MODES, ImageName, Images

_NO_CHECKS = "This image format does not support checks"


class Repair(Enum):
    """What a check may change."""

    NOTHING = "nothing"
    LEAKS = "leaks"
    ALL = "all"


class NoChecksError(QmpError):
    """The format has nothing that could be checked."""


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """ImageCheck: what was found, and what is left after a repair."""

    filename: str
    format: str
    found: CheckResult
    left: CheckResult
    """The same as ``found`` if nothing was repaired."""

    def describe(self) -> dict[str, Any]:
        """Return the members of QAPI's ImageCheck."""
        left = self.left
        members = {
            "image-end-offset": left.image_end_offset,
            "total-clusters": left.total_clusters,
            "allocated-clusters": left.allocated_clusters,
            "fragmented-clusters": left.fragmented_clusters,
            "compressed-clusters": left.compressed_clusters,
            "corruptions": left.corruptions,
            "corruptions-fixed": self.found.corruptions_fixed,
            "leaks": left.leaks,
            "leaks-fixed": self.found.leaks_fixed,
        }
        shown = {name: value for name, value in members.items() if value}
        fixed = {"filename": self.filename, "format": self.format}
        return {**shown, "check-errors": left.check_errors, **fixed}


async def check(
    images: Images,
    image: ImageName,
    *,
    repair: Repair = Repair.NOTHING,
    force_share: bool = False,
) -> ImageCheck:
    """Check an image, and repair what ``repair`` says.

    Raises ``QmpError`` for what cannot be opened, ``NoChecksError``, and ``OSError`` when a repair
    cannot be written.
    """
    writable = repair is not Repair.NOTHING
    try:
        file, fmt = await open_file(images, image, writable=writable, force_share=force_share)
        found = left = await _check_qcow2(file, repair)
        if found.leaks_fixed or found.corruptions_fixed:
            left = await _check_qcow2(file, Repair.NOTHING)
    except NoChecksError:
        raise
    except QmpError as error:
        raise QmpError(f"Could not open '{image.text}': {error.desc}") from error
    return ImageCheck(image.text, fmt, found, left)


async def open_file(
    images: Images, image: ImageName, *, writable: bool, force_share: bool
) -> tuple[BlockBackend, str]:
    """Return a way into the file of an image, and the image's format."""
    given = (
        image_options(image.text, image.format, is_device)
        if image.options is None
        else image.options
    )
    fmt = given.get("driver") or image.format
    if fmt is not None:
        find_driver(fmt)
    file = given.get("file")
    if file is None:
        raise NoChecksError(_NO_CHECKS)
    if isinstance(file, str):
        raise QmpError(f"Cannot find device='' nor node-name='{file}'")
    more: dict[str, Any] = {"read-only": not writable}
    if CACHE_MODES[image.cache]:
        more["cache"] = dict(CACHE_MODES[image.cache])
    if force_share:
        more["force-share"] = True
    node = await images.blockdev.open({**more, **file})
    needed = Permission.CONSISTENT_READ
    allowed = Permission.CONSISTENT_READ | Permission.WRITE_UNCHANGED
    if writable:
        needed |= Permission.WRITE | Permission.RESIZE
    backend = images.attach(node, needed, Permission.ALL if force_share else allowed)
    backend.write_beyond_end = True
    if fmt is None:
        fmt = probe_format(await _first_bytes(backend))
    if fmt != "qcow2":
        raise NoChecksError(_NO_CHECKS)
    return backend, fmt


async def _first_bytes(file: BlockBackend) -> bytes:
    try:
        return bytes(await file.pread(0, min(PROBE_SIZE, file.length)))
    except OSError as error:
        raise QmpError(
            f"Could not read image for determining its format: {strerror(error)}"
        ) from error


async def _check_qcow2(file: BlockBackend, repair: Repair) -> CheckResult:
    assert file.root is not None
    opened = await open_image(
        {"file": file.root}, writable=repair is not Repair.NOTHING, checking=True
    )
    if repair is not Repair.NOTHING:
        await clear_unknown_features(opened)
    dropped = await drop_bad_bitmaps(opened) if repair is Repair.ALL else []
    result = await check_image(
        opened, repair_leaks=repair is Repair.LEAKS, repair=repair is Repair.ALL
    )
    result.corruptions_fixed += len(dropped)
    result.messages[:0] = [f"Removing invalid bitmap '{os.fsdecode(name)}'" for name in dropped]
    return result
