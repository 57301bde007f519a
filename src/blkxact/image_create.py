"""New images: what ``drive-backup``, snapshots, ``blockdev-create`` and ``image create`` make.

QEMU's counterpart: bdrv_img_create() in ``block.c``; ``block/create.c``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from .block.filename import protocol_of
from .block.node import BlockNode
from .drivers.qcow2.create import CreateOptions, create, validate
from .drivers.qcow2.storage_child import StorageChild
from .errors import QmpError, strerror
from .storage.api import Storage, StorageFile

FORMATS = ("qcow2", "raw", "file")


async def create_file(storage: Storage, path: str) -> StorageFile:
    """Create or empty a file; raises ``QmpError``."""
    try:
        return await storage.create(path)
    except OSError as error:
        raise QmpError(f"Could not create '{path}': {strerror(error)}") from error


async def create_image(
    storage: Storage,
    filename: str,
    fmt: str,
    *,
    size: int,
    backing: BlockNode | None = None,
    options: CreateOptions | None = None,
    tell: Callable[[str], object] | None = None,
) -> None:
    """Create an image of ``size`` bytes in a new file.

    ``backing`` becomes its backing file, by name and format. ``options`` has the rest for qcow2.
    ``tell`` hears of it in the words of ``qemu-img create``.
    Raises ``QmpError``; a file that this call made is removed again.
    """
    path = filename.removeprefix("file:")
    check_new_image(path, fmt, backing)
    qcow2 = options or CreateOptions(size=size)
    if backing is not None:
        qcow2 = dataclasses.replace(
            qcow2, backing_file=backing.filename, backing_format=backing.driver.format_name
        )
    if fmt == "qcow2":
        validate(qcow2)
    if tell is not None:
        tell(describe_new(filename, fmt, qcow2))
    existed = storage.exists(path)
    file = await create_file(storage, path)
    try:
        if fmt != "qcow2":
            await file.truncate(size)
        else:
            await create(StorageChild(file), qcow2)
    except (QmpError, OSError) as error:
        if not existed:
            storage.unlink(path)
        if isinstance(error, QmpError):
            raise QmpError(f"{path}: {error.desc}") from error
        raise QmpError(f"{path}: Could not resize file: {strerror(error)}") from error
    finally:
        await file.close()


def check_new_image(path: str, fmt: str, backing: BlockNode | None) -> None:
    """Raise ``QmpError`` unless such an image can be made there."""
    if fmt not in FORMATS:
        raise QmpError(f"Format driver '{fmt}' does not support image creation")
    if protocol_of(path):
        raise QmpError(f"Protocol driver '{protocol_of(path)}' does not support image creation")
    if backing is None:
        return
    if os.path.realpath(path) == os.path.realpath(backing.filename):
        raise QmpError(
            "Error: Trying to create an image with the same filename as the backing file"
        )
    if fmt != "qcow2":
        raise QmpError(f"Backing file not supported for file format '{fmt}'")


def describe_new(filename: str, fmt: str, options: CreateOptions) -> str:
    """Return the line that tells of an image about to be created."""
    if fmt != "qcow2":
        return f"Formatting '{filename}', fmt={fmt} size={options.size}\n"
    words = [
        f"cluster_size={options.cluster_size}",
        "extended_l2=off",
        f"compression_type={options.compression_type}",
        f"size={options.size}",
    ]
    if options.backing_file:
        words.append(f"backing_file={options.backing_file}")
    if options.backing_format:
        words.append(f"backing_fmt={options.backing_format}")
    words.append(f"lazy_refcounts={_switch(options.lazy_refcounts)}")
    words.append(f"refcount_bits={options.refcount_bits}")
    return f"Formatting '{filename}', fmt={fmt} {' '.join(words)}\n"


def _switch(value: bool) -> str:
    return "on" if value else "off"
