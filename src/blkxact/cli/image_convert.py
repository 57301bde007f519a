"""``blkxact image convert``: a disk, or several concatenated, copied into another image."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from blkxact.block.backend import BlockBackend
from blkxact.block.types import SECTOR
from blkxact.errors import QmpError, strerror
from blkxact.image_tools.convert import (
    DEFAULT_SPARSE,
    DEFAULT_WORKERS,
    MAX_WORKERS,
    PIECE,
    Conversion,
    ConvertOptions,
)
from blkxact.image_tools.open_images import ImageName, Images, node_of, open_images
from blkxact.image_tools.snapshot import look_at_snapshot

from .errors import CliError
from .image_arguments import (
    add_cache,
    add_force_share,
    add_format,
    add_progress,
    add_quiet,
    add_source_cache,
    image_name,
)
from .image_create import create_image, removing_new_files
from .image_options import (
    add_create_options,
    describe_options,
    given_options,
    parse_options,
    wants_help,
)
from .image_progress import progress_bar
from .keyval import parse_opts
from .sizes import parse_size

_ALLOWED_WORKERS: Final = f"Allowed number of coroutines is between 1 and {MAX_WORKERS}"
MAX_SPARSE: Final = 16 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_format(parser, "format of the sources; default: look at them")
    add = parser.add_argument
    add("-O", dest="output_format", metavar="FORMAT", help="of the new image (default raw)")
    add_create_options(parser)
    add("-B", dest="backing", metavar="FILE", help="backing file of the new image")
    add("-F", dest="backing_format", metavar="FORMAT", help="format of the backing file")
    add("-n", dest="existing", action="store_true", help="write into an image that exists")
    add("--target-image-opts", action="store_true", help="the target is a list of options")
    add("--target-is-zero", action="store_true", help="the target reads as zeroes (with -n)")
    add("-c", dest="compress", action="store_true", help="compress the new image")
    add("-C", dest="copy_ranges", action="store_true", help="let the host copy between files")
    add("-S", dest="sparse", metavar="BYTES", help="shortest run of zeroes to leave out (4k); 0: "
        "write all")  # fmt: skip
    add("-l", dest="snapshot", metavar="SNAPSHOT", help="internal snapshot of the source: its name "
        "or id, or snapshot.id=...,snapshot.name=...")  # fmt: skip
    add("--bitmaps", action="store_true", help="copy the bitmaps too")
    add("--skip-broken-bitmaps", action="store_true", help="leave out inconsistent bitmaps")
    add("--salvage", action="store_true", help="take what cannot be read for zeroes")
    add("-r", dest="rate", metavar="BYTES", help="bytes a second at the most")
    add("-m", dest="workers", type=int, default=DEFAULT_WORKERS, metavar="NUMBER",
        help=f"copies at a time (default {DEFAULT_WORKERS})")  # fmt: skip
    add("-W", dest="out_of_order", action="store_true",
        help="allow writes out of order")  # fmt: skip
    add_cache(parser, "unsafe")
    add_source_cache(parser)
    add_force_share(parser)
    add_progress(parser)
    add_quiet(parser)
    add("filenames", nargs="*", metavar="filename", help="the sources, and last the new image")


async def serve(args: argparse.Namespace) -> int:
    """Convert."""
    options = given_options(args)
    *args.filenames, args.output_filename = args.filenames or [None]
    if wants_help(options):
        print(describe_options(args.output_format or "raw", with_file=bool(args.filenames)))
        return 0
    if not args.filenames:
        raise CliError("Must specify image file name")
    _check(args)
    _take_target_options(args, options)
    async with open_images(with_layer=args.bitmaps, objects=args.objects) as images:
        sources = await _open_sources(images, args)
        with removing_new_files(images.storage, args.output_filename, options):
            if not args.existing:
                await _create(args, options, sources)
            await _convert(images, sources, args)
    return 0


def _take_target_options(args: argparse.Namespace, options: dict[str, str]) -> None:
    """Move what ``-o`` says of the backing file; raises ``CliError`` for what cannot be."""
    args.backing = options.pop("backing_file", args.backing)
    args.backing_format = options.pop("backing_fmt", args.backing_format)
    if len(args.filenames) > 1 and args.backing is not None:
        raise CliError(
            "Having a backing file for the target makes no sense when concatenating multiple "
            "input images"
        )
    if args.backing is not None and not args.backing_format and not args.existing:
        raise CliError("Use of backing file requires explicit backing format")
    options.pop("size", None)
    if not args.existing:
        fmt = args.output_format or "raw"
        parse_options(fmt, options)  # a bad one is reported before all else
        if args.backing is not None and fmt == "raw":
            raise CliError("Backing file not supported for file format 'raw'")
    if args.compress and options.get("preallocation", "off") != "off":
        raise CliError("Compression and preallocation not supported at the same time")


def _check(args: argparse.Namespace) -> None:
    """Raise ``CliError`` for options that exclude each other."""
    excluded = (
        (args.skip_broken_bitmaps and not args.bitmaps,
         "Use of --skip-broken-bitmaps requires --bitmaps"),
        (args.compress and args.copy_ranges, "Cannot enable copy offloading when -c is used"),
        (args.sparse is not None and args.copy_ranges,
         "Cannot enable copy offloading when -S is used"),
        (args.copy_ranges and args.salvage, "Cannot use copy offloading in salvaging mode"),
        (args.target_image_opts and not args.existing,
         "--target-image-opts requires use of -n flag"),
        (args.existing and args.options, "-o has no effect when skipping image creation"),
        (args.target_is_zero and not args.existing, "--target-is-zero requires use of -n flag"),
        (args.target_is_zero and args.backing is not None,
         "Cannot use --target-is-zero when the destination image has a backing file"),
        (not 1 <= args.workers <= MAX_WORKERS,
         f"Invalid number of coroutines. {_ALLOWED_WORKERS}"),
        (args.bitmaps and len(args.filenames) > 1,
         "Copying bitmaps only possible with single source"),
        (args.snapshot is not None and len(args.filenames) > 1,
         "No support for concatenating multiple snapshot"),
    )  # fmt: skip
    for wrong, refusal in excluded:
        if wrong:
            raise CliError(refusal)
    _sparse(args)


def _sparse(args: argparse.Namespace) -> int:
    if args.sparse is None:
        return DEFAULT_SPARSE
    size = parse_size(args.sparse)
    if size % SECTOR or size > MAX_SPARSE:
        raise CliError(
            f"Invalid buffer size for sparse output specified. Valid sizes are multiples of "
            f"{SECTOR} up to {MAX_SPARSE}. Select 0 to disable sparse detection (fully allocates "
            "output)."
        )
    return min(size, PIECE)


async def _open_sources(images: Images, args: argparse.Namespace) -> list[BlockBackend]:
    sources = []
    for filename in args.filenames:
        if not args.existing and _same_file(filename, args.output_filename):
            raise CliError(f"'{filename}' cannot be converted into itself")
        sources.append(await images.open(image_name(args, filename), force_share=args.force_share))
    if args.snapshot is not None:
        try:
            await look_at_snapshot(node_of(sources[0]), **_snapshot(args.snapshot))
        except QmpError as error:
            raise CliError(f"Failed to load snapshot: {error.desc}") from error
    if args.bitmaps:
        # The schema takes longer to load than most images to copy.
        from blkxact.image_tools.bitmap import check_copyable  # noqa: PLC0415

        check_copyable(node_of(sources[0]), skip_broken=args.skip_broken_bitmaps)
    return sources


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - strings all the way
    except OSError:
        return False


def _snapshot(text: str) -> dict[str, str | None]:
    """Return how ``look_at_snapshot`` finds the snapshot that ``-l`` names."""
    if not text.startswith("snapshot."):
        return {"text": text}
    given = parse_opts(text)
    unknown = given.keys() - {"snapshot.id", "snapshot.name"}
    if unknown:
        raise CliError(f"Failed in parsing snapshot param '{text}'")
    return {"snapshot_id": given.get("snapshot.id"), "name": given.get("snapshot.name")}


async def _create(
    args: argparse.Namespace, options: dict[str, str], sources: Sequence[BlockBackend]
) -> None:
    """Make the target.

    ``args`` says then whether it reads as zeroes, so that none need to be written.
    """
    fmt = args.output_format or "raw"
    try:
        zeroes = await create_image(
            args.output_filename,
            fmt,
            sum(source.length for source in sources),
            backing=args.backing,
            backing_format=args.backing_format,
            options=options,
            objects=args.objects,
        )
    except (QmpError, CliError) as error:
        raise CliError(f"{args.output_filename}: error while converting {fmt}: {error}") from error
    args.target_is_zero = zeroes and args.backing is None and _sparse(args) > 0


async def _convert(
    images: Images, sources: Sequence[BlockBackend], args: argparse.Namespace
) -> None:
    target = await _open_target(images, args)
    node = node_of(target)
    length = sum(source.length for source in sources)
    if target.length < length:
        raise CliError("output file is smaller than input file")
    if args.bitmaps and not hasattr(node.driver, "can_store_bitmap"):
        raise CliError(f"Format driver '{node.driver.format_name}' does not support bitmaps")
    if args.compress and not node.driver.supports_compressed_writes:
        raise CliError("Compression not supported for this file format")
    sparse = _sparse(args)
    options = ConvertOptions(
        compress=args.compress,
        sparse=sparse,
        target_is_blank=args.target_is_zero,
        over_backing=args.backing is not None,
        copy_ranges=args.copy_ranges,
        salvage=args.salvage,
        rate=parse_size(args.rate) if args.rate else 0,
        workers=args.workers,
        any_order=args.out_of_order,
        warn=(lambda _text: None) if args.quiet else _warn,
    )
    try:
        with progress_bar(shown=args.progress and not args.quiet) as progress:
            conversion = Conversion(sources, target, images.clock, options)
            await conversion.run(progress)
        if args.bitmaps:
            from blkxact.image_tools.bitmap import copy_bitmaps  # noqa: PLC0415

            await copy_bitmaps(
                images, node_of(sources[0]), node, skip_broken=args.skip_broken_bitmaps
            )
        await images.finish(target)
    except OSError as error:
        raise CliError(f"error while writing: {strerror(error)}") from error


async def _open_target(images: Images, args: argparse.Namespace) -> BlockBackend:
    name = ImageName(args.output_filename, args.output_format or "raw", cache=args.cache)
    if args.target_image_opts:
        args.image_opts, args.format = True, args.output_format
        name = image_name(args, args.output_filename, cache=args.cache)
    sparse = _sparse(args)
    return await images.open(name, writable=True, discard=sparse > 0)


def _warn(text: str) -> None:
    print(f"blkxact: warning: {text}", file=sys.stderr)
