"""New images: what ``drive-backup``, snapshots, ``blockdev-create`` and ``image create`` make.

QEMU's counterpart: bdrv_img_create() in ``block.c``; ``block/create.c``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType

from blkxact.block.backend import BlockBackend
from blkxact.block.filename import protocol_of
from blkxact.block.node import BlockNode
from blkxact.block.types import SECTOR, Permission
from blkxact.drivers import DRIVERS, PROTOCOLS, find_driver
from blkxact.drivers.file import resize_file
from blkxact.drivers.image_options import protocol_options
from blkxact.drivers.qcow2.create import CreateOptions, create, validate
from blkxact.drivers.qcow2.layout import MAX_L1_BYTES
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.enums import PreallocMode
from blkxact.errors import QmpError, strerror
from blkxact.storage.api import Storage, StorageFile
from blkxact.storage.errors import LockConflict
from blkxact.storage.file_hints import NO_HINTS, FileHints

from .blockdev import Blockdev

FORMATS = ("qcow2", "raw", "file")
FORMATS_OF_QEMU = ("luks", "parallels", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc")
"""Formats that QEMU knows and blkxact does not."""
MAX_EXTENT_SIZE = (1 << 32) - 1


async def create_file(storage: Storage, path: str, hints: FileHints = NO_HINTS) -> StorageFile:
    """Create or empty a file; raises ``QmpError``."""
    if (hints.extent_size or 0) > MAX_EXTENT_SIZE:
        raise QmpError("Extent size hint is too large")
    try:
        return await storage.create(path, hints)
    except LockConflict as conflict:
        raise QmpError(conflict.message) from conflict
    except OSError as error:
        raise QmpError(f"Could not create '{path}': {strerror(error)}") from error


async def create_image(
    blockdev: Blockdev,
    filename: str,
    fmt: str,
    *,
    size: int,
    backing: BlockNode | None = None,
    options: CreateOptions | None = None,
    hints: FileHints = NO_HINTS,
    given: Mapping[str, object] = MappingProxyType({}),
    report: Callable[[str], object] | None = None,
) -> bool:
    """Create an image of ``size`` bytes in a new file, or in what a server exports.

    ``backing`` becomes its backing file, by name and format. ``options`` has the rest for qcow2, of
    raw its preallocation. ``report`` is called with the words of ``qemu-img create``, in which
    ``given`` are the options that are named only where somebody gave them.
    Returns whether the image is known to read as zeroes, but for the backing file.
    Raises ``QmpError``; a file that this call made is removed again.
    """
    storage = blockdev.storage
    path = filename.removeprefix("file:")
    is_file = path != filename  # whatever the name looks like
    check_new_image(path, fmt, backing, is_file=is_file)
    qcow2 = options or CreateOptions(size=size)
    if backing is not None:
        qcow2 = qcow2._replace(
            backing_file=backing.filename, backing_format=backing.driver.format_name
        )
    if report is not None:
        report(describe_new(filename, fmt, qcow2, given))
    if fmt == "qcow2":
        validate(qcow2)
        _check_l1_size(qcow2)
    if (protocol_of(path) or storage.is_device(path)) and not is_file:
        await _create_in_export(blockdev, filename, fmt, size, qcow2)
        return fmt == "qcow2"
    made: list[str] = []
    try:
        await _make(storage, path, fmt, qcow2, hints=hints, made=made)
    except QmpError:
        for name in made:
            storage.unlink(name)
        raise
    return True


def _check_l1_size(options: CreateOptions) -> None:
    entries = options.cluster_size // (16 if options.extended_l2 else 8)
    if options.size > MAX_L1_BYTES // 8 * entries * options.cluster_size:
        raise QmpError(
            "The image size is too large for file format 'qcow2' (try using a larger cluster size)"
        )


async def _create_in_export(
    blockdev: Blockdev, filename: str, fmt: str, size: int, qcow2: CreateOptions
) -> None:
    """Make an image in an export or a device, which exists already; raises ``QmpError``."""
    if qcow2.data_file is not None:
        raise QmpError("Only a new file can have a data file")
    place = protocol_options(filename, blockdev.storage.is_device)
    try:
        node = await blockdev.open(place)
    except QmpError as error:
        raise QmpError(
            f"Protocol driver '{place['driver']}' does not support "
            f"image creation, and opening the image failed: {error.desc}"
        ) from error
    perm = Permission.CONSISTENT_READ | Permission.WRITE | Permission.RESIZE
    backend = BlockBackend(blockdev.graph, perm=perm, shared=Permission.ALL)
    try:
        backend.insert(node)
        assert backend.root is not None
        if fmt == "qcow2":
            await create(backend.root, qcow2)
        else:
            _check_room(node, size, qcow2.preallocation)
            # Remains of another format must not be probed as such.
            await backend.root.pwrite_zeroes(0, min(SECTOR, node.length))
        await node.flush()
    except (QmpError, OSError) as error:
        text = error.desc if isinstance(error, QmpError) else strerror(error)
        raise QmpError(text) from error
    finally:
        backend.close()
        await blockdev.graph.settled()


def _check_room(node: BlockNode, size: int, preallocation: PreallocMode) -> None:
    if preallocation != PreallocMode.OFF:
        raise QmpError(f"Unsupported preallocation mode '{preallocation}'")
    if node.length < size and node.driver.format_name == "host_device":
        raise QmpError("Cannot grow device files")
    if node.length < size:
        raise QmpError(f"Cannot grow {node.driver.format_name.upper()} nodes")


def _is_one_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


async def _make(
    storage: Storage,
    path: str,
    fmt: str,
    options: CreateOptions,
    *,
    hints: FileHints,
    made: list[str],
) -> None:
    """Make the files of an image; ``made`` gets those that were not there before."""
    paths = [path]
    if fmt == "qcow2" and options.data_file is not None:
        check_new_image(options.data_file, "file", None)
        if _is_one_file(path, options.data_file):
            raise QmpError(f"'{path}' cannot be its own data file")
        paths.append(options.data_file)
    async with AsyncExitStack() as stack:
        files: list[StorageFile] = []
        for name in paths:
            is_new = not storage.exists(name)
            files.append(await create_file(storage, name, hints))
            stack.push_async_callback(files[-1].close)
            if is_new:
                made.append(name)
        try:
            if fmt != "qcow2":
                await resize_file(files[0], options.size, options.preallocation)
            else:
                child, *data_file = map(StorageChild, files)
                await create(child, options, *data_file)
        except OSError as error:
            raise QmpError(f"Could not resize file: {strerror(error)}") from error


def check_new_image(
    path: str, fmt: str, backing: BlockNode | None, *, is_file: bool = False
) -> None:
    """Raise ``QmpError`` unless such an image can be made there."""
    if fmt not in DRIVERS and fmt not in FORMATS_OF_QEMU:
        raise QmpError(f"Unknown file format '{fmt}'")
    if fmt not in FORMATS:
        raise QmpError(f"Format driver '{fmt}' does not support image creation")
    protocol = "" if is_file else protocol_of(path)
    if protocol and protocol not in PROTOCOLS:
        raise QmpError(f"Unknown protocol '{protocol}'")
    if protocol and not find_driver(PROTOCOLS[protocol]).holds_new_images:
        raise QmpError(f"Protocol driver '{protocol}' does not support image creation")
    if backing is None:
        return
    if fmt != "qcow2":
        raise QmpError(f"Backing file not supported for file format '{fmt}'")
    if _is_one_file(path, backing.filename):
        raise QmpError(
            "Error: Trying to create an image with the same filename as the backing file"
        )


def describe_new(
    filename: str, fmt: str, options: CreateOptions, given: Mapping[str, object]
) -> str:
    """Return the line that announces an image about to be created."""
    facts: dict[str, object] = {"size": given.get("size", options.size)}
    if fmt == "qcow2":
        facts = {
            "encryption": given.get("encryption"),
            "cluster_size": options.cluster_size,
            "extended_l2": _switch(options.extended_l2),
            "preallocation": given.get("preallocation"),
            "compression_type": given.get("compression_type", options.compression_type),
            **facts,
            "compat": given.get("compat"),
            "backing_file": options.backing_file or None,
            "backing_fmt": options.backing_format,
            "data_file": options.data_file,
            "data_file_raw": given.get("data_file_raw"),
            "lazy_refcounts": _switch(options.lazy_refcounts),
            "refcount_bits": options.refcount_bits,
        }
    for name in ("extent_size_hint", "nocow", "preallocation"):
        facts.setdefault(name, given.get(name))
    shown = [(name, str(value)) for name, value in facts.items() if value is not None]
    words = " ".join(f"{name}={value.replace(',', ',,')}" for name, value in shown)
    return f"Formatting '{filename}', fmt={fmt} {words}\n"


def _switch(value: bool) -> str:
    return "on" if value else "off"
