"""``blkxact image create``: new images from ``qemu-img create``'s options.

QEMU's counterpart: ``bdrv_img_create`` in ``block.c``, ``qcow2_co_create_opts``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from blkxact.block.filename import combine, is_absolute
from blkxact.block.types import SECTOR
from blkxact.blockdev.image_create import create_image as create_with_driver
from blkxact.errors import QmpError
from blkxact.image_tools.open_images import JsonObject, open_images
from blkxact.storage.api import Storage

from .errors import CliError
from .image_arguments import add_objects, add_quiet
from .image_options import (
    add_create_options,
    describe_options,
    given_options,
    parse_options,
    wants_help,
)
from .sizes import parse_size

Path = str | os.PathLike[str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("-f", dest="format", metavar="FORMAT", default="raw", help="raw (default) or qcow2")
    add_create_options(parser)
    add("-b", dest="backing", metavar="FILE", help="backing file")
    add("-F", dest="backing_format", metavar="FORMAT", help="format of the backing file")
    add("-u", dest="unsafe", action="store_true", help="do not open the backing file")
    add_objects(parser)
    add_quiet(parser)
    add("filename", nargs="?", help="the new image")
    add("size", nargs="?", help="bytes, or with a suffix: 64M; default: that of the backing file")


async def serve(args: argparse.Namespace) -> int:
    """Make the image."""
    options = given_options(args)
    if wants_help(options):
        print(describe_options(args.format, with_file=args.filename is not None))
        return 0
    if args.filename is None:
        raise CliError("Expecting image file name")
    if args.size is not None and "size" in options:
        raise CliError(f"{args.filename}: The image size must be specified only once")
    size = options.pop("size", args.size)
    backing = options.pop("backing_file", args.backing)
    try:
        await create_image(
            args.filename,
            args.format,
            None if size is None else parse_size(size),
            backing=backing,
            backing_format=options.pop("backing_fmt", args.backing_format),
            open_backing=not args.unsafe,
            options=options,
            objects=args.objects,
            report=(lambda _text: None) if args.quiet else (lambda text: print(text, end="")),
        )
    except (QmpError, CliError) as error:
        raise CliError(f"{args.filename}: {error}") from error
    return 0


async def create_image(
    path: Path,
    fmt: str,
    size: int | None,
    *,
    backing: Path | None = None,
    backing_format: str | None = None,
    open_backing: bool = True,
    options: Mapping[str, str] | None = None,
    objects: Sequence[JsonObject] = (),
    report: Callable[[str], object] = lambda _text: None,
) -> bool:
    """Make an image; return whether it is known to read as zeroes, but for its backing file.

    ``size`` None: that of the backing file, which is named as seen from the new image. ``options``
    are those of ``-o``, as texts, ``objects`` those of ``--object``. ``report`` is called, in
    qemu-img's words, of what is about to be made.
    Raises ``QmpError`` and ``CliError``.
    """
    filename = os.fspath(path)
    given = parse_options(fmt, options or {})
    qcow2 = given.image
    if backing is not None:
        name = os.fspath(backing)
        _check_backing(name, backing_format)
        qcow2 = qcow2._replace(backing_file=name, backing_format=backing_format)
        if open_backing:
            length = await _backing_length(filename, name, backing_format, objects)
            size = length if size is None else size
    if size is None:
        raise QmpError("Image creation needs a size parameter")
    qcow2 = qcow2._replace(size=-(-size // SECTOR) * SECTOR)
    if fmt == "raw" and backing is not None:
        raise QmpError("Backing file not supported for file format 'raw'")
    async with open_images(objects=objects) as images:
        return await create_with_driver(
            images.blockdev,
            filename,
            fmt,
            size=qcow2.size,
            options=qcow2,
            hints=given.hints,
            given={**given.given, "size": size},
            report=partial(_report, report, given.refusal),
        )


def _check_backing(name: str, fmt: str | None) -> None:
    if not name:
        raise QmpError("Expected backing file name, got empty string")
    if fmt is None:
        raise QmpError("Backing file specified without backing format")


def _report(report: Callable[[str], object], refusal: str | None, text: str) -> None:
    """Report what is about to be made; raise ``QmpError`` if it is refused then, as in QEMU."""
    report(text)
    if refusal is not None:
        raise QmpError(refusal)


@contextmanager
def removing_new_files(storage: Storage, path: str, options: Mapping[str, str]) -> Iterator[None]:
    """Remove what was not there before, of an image with these ``-o``, if what follows fails."""
    names = [path.removeprefix("file:")]
    if "data_file" in options:
        names.append(options["data_file"])
    new = [name for name in names if not storage.exists(name)]
    try:
        yield
    except BaseException:
        for name in new:
            if storage.exists(name):
                storage.unlink(name)
        raise


async def _backing_length(
    filename: str, backing: str, fmt: str | None, objects: Sequence[JsonObject]
) -> int:
    full = backing if is_absolute(backing) else combine(filename, backing)
    async with open_images(no_io=True, objects=objects) as images:
        try:
            # A guest may be writing to it: an overlay is made all the same.
            return (await images.open(full, fmt, force_share=True)).length
        except QmpError as error:
            raise QmpError(f"{error.desc}; could not open backing image") from error
