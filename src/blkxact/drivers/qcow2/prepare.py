"""Bringing an image into the state in which it may be written.

QEMU's counterpart: the end of ``qcow2_do_open``.
"""

from __future__ import annotations

from blkxact.errors import QmpError, strerror

from .image import Image, clear_unknown_features
from .unfinished import is_marked, unmark


async def prepare_writing(image: Image) -> None:
    """Clear features that writers must know, and repair after a crash; raises ``QmpError``."""
    try:
        await clear_unknown_features(image)
        if is_marked(image.header):
            await _repair(image)
    except OSError as error:
        raise QmpError(f"Could not update qcow2 header: {strerror(error)}") from error


async def _repair(image: Image) -> None:
    """Set counts and flags right after the crash of a writer that changed them lazily."""
    from .check import check_image  # noqa: PLC0415 - few images need it

    result = await check_image(image, repair=True)
    if result.check_errors or result.corruptions:
        raise QmpError("Could not repair dirty image: Input/output error")
    await unmark(image)
