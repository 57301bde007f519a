"""Changes to the dirty bitmaps that an image keeps: all of a command's, or none.

The bitmaps are changed in memory, by the same actions as a daemon's, and written when the image is
let go. After a failure, also one of writing, memory has them as they were, and closing the image
writes that.

QEMU's counterpart: ``img_bitmap`` in ``qemu-img.c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from blkxact.actions import run_actions
from blkxact.bitmap import BitmapCheck, DirtyBitmap, Saved
from blkxact.block.backend import BlockBackend
from blkxact.block.node import BlockNode
from blkxact.drivers.qcow2.bitmap_repair import drop_bad_bitmaps
from blkxact.drivers.qcow2.driver import Qcow2Driver
from blkxact.drivers.qcow2.image import open_image
from blkxact.errors import QmpError
from blkxact.qapi.block_core import BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge
from blkxact.qapi.validation import validate

from .check import open_file
from .open_images import ImageName, Images, node_of

_MODELS: dict[str, Any] = {
    "add": BlockDirtyBitmapAdd,
    "clear": BlockDirtyBitmap,
    "enable": BlockDirtyBitmap,
    "disable": BlockDirtyBitmap,
    "merge": BlockDirtyBitmapMerge,
}


class BitmapChange(NamedTuple):
    """One step: ``add``, ``remove``, ``clear``, ``enable``, ``disable`` or ``merge``."""

    verb: str
    source: str = ""
    """The bitmap to merge."""


class _Before(NamedTuple):
    """A bitmap as it was."""

    bitmap: DirtyBitmap
    bits: Saved
    enabled: bool


async def change_bitmaps(
    images: Images,
    backend: BlockBackend,
    name: str,
    changes: Sequence[BitmapChange],
    *,
    granularity: int | None = None,
    source: BlockNode | None = None,
) -> None:
    """Change the bitmap ``name`` of a writable image, step by step, and let go of the image.

    ``granularity`` is for ``add``; ``source`` has the bitmaps to merge, by default the image's own.
    Raises ``QmpError`` or ``OSError``, with the bitmaps as they were.
    """
    node = node_of(backend)
    before = [_Before(b, b.save(), b.enabled) for b in node.bitmaps.values()]
    try:
        for change in changes:
            await _do_step(images, node, name, change, (granularity, source or node))
        if any(kept.bitmap.name == name for kept in before) and name not in node.bitmaps:
            await node.driver.remove_persistent_bitmap(name)
        await images.finish(backend)
    except (QmpError, OSError):
        _restore(node, before)
        if isinstance(node.driver, Qcow2Driver):
            node.driver.bitmaps.doomed -= {name}
            node.driver.bitmaps.doomed |= {name} - node.bitmaps.keys()
        raise


async def _do_step(
    images: Images,
    node: BlockNode,
    name: str,
    change: BitmapChange,
    parameters: tuple[int | None, BlockNode],
) -> None:
    """Do one step; ``parameters`` are the granularity and the node with the bitmap to merge."""
    try:
        if change.verb == "remove":
            _remove(node, name)
            return
        model = validate(_MODELS[change.verb], _arguments(node, name, change, *parameters))
        await run_actions(images.layer, [(f"block-dirty-bitmap-{change.verb}", model)])
    except QmpError as error:
        raise QmpError(f"Operation {change.verb} on bitmap {name} failed: {error.desc}") from error


async def remove_broken(images: Images, image: ImageName, name: str) -> bool:
    """Remove a bitmap from an image that cannot be opened; return whether it was there.

    Raises ``OSError``.
    """
    try:
        backend, _ = await open_file(images, image, writable=True, force_share=False)
        assert backend.root is not None
        opened = await open_image({"file": backend.root}, writable=True, checking=True)
        removed = await drop_bad_bitmaps(opened, name)
    except QmpError:
        return False  # why it cannot be opened is known already
    await images.forget(backend)
    return bool(removed)


def _arguments(
    node: BlockNode, name: str, change: BitmapChange, granularity: int | None, source: BlockNode
) -> dict[str, Any]:
    """Return the arguments of the QMP command."""
    if change.verb == "merge":
        merged = {"node": source.node_name, "name": change.source}
        return {"node": node.node_name, "target": name, "bitmaps": [merged]}
    arguments: dict[str, Any] = {"node": node.node_name, "name": name}
    if change.verb == "add":
        arguments["persistent"] = True
        if granularity is not None:
            arguments["granularity"] = granularity
    return arguments


def _remove(node: BlockNode, name: str) -> None:
    """Forget a bitmap; the image forgets it when all steps are done."""
    bitmap = node.bitmaps.get(name)
    if bitmap is None:
        raise QmpError(f"Dirty bitmap '{name}' not found")
    bitmap.check(BitmapCheck.BUSY | BitmapCheck.READ_ONLY)
    del node.bitmaps[name]


def _restore(node: BlockNode, before: list[_Before]) -> None:
    node.bitmaps.clear()
    for bitmap, bits, enabled in before:
        assert bitmap.name is not None
        if not bitmap.read_only:
            bitmap.restore(bits)
        bitmap.enabled = enabled
        node.bitmaps[bitmap.name] = bitmap


def check_copyable(node: BlockNode, *, skip_broken: bool) -> None:
    """Raise ``QmpError`` unless the bitmaps of an image can be copied."""
    driver = node.driver
    if not isinstance(driver, Qcow2Driver) or driver.image.header.version < 3:
        raise QmpError("Source lacks bitmap support")
    for bitmap in node.bitmaps.values():
        if bitmap.inconsistent and not skip_broken:
            raise QmpError(
                f"Cannot copy inconsistent bitmap '{bitmap.name}': try --skip-broken-bitmaps, or "
                "remove it"
            )


async def copy_bitmaps(
    images: Images, source: BlockNode, target: BlockNode, *, skip_broken: bool
) -> None:
    """Make bitmaps in ``target`` that say what those of ``source`` do; raises ``QmpError``."""
    # An image lists its newest bitmap first; so the copies come in the order of their models.
    for bitmap in reversed(source.bitmaps.values()):
        if skip_broken and bitmap.inconsistent:
            continue
        arguments = {
            "node": target.node_name,
            "name": bitmap.name,
            "granularity": bitmap.granularity,
            "persistent": True,
            "disabled": not bitmap.enabled,
        }
        merged = {"node": source.node_name, "name": bitmap.name}
        merge = {"node": target.node_name, "target": bitmap.name, "bitmaps": [merged]}
        try:
            await run_actions(
                images.layer,
                [
                    ("block-dirty-bitmap-add", validate(BlockDirtyBitmapAdd, arguments)),
                    ("block-dirty-bitmap-merge", validate(BlockDirtyBitmapMerge, merge)),
                ],
            )
        except QmpError as error:
            raise QmpError(f"Failed to create bitmap {bitmap.name}: {error.desc}") from error
