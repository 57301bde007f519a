"""``blkxact chain flatten``: the disk that a chain makes, restored to one new image."""

from __future__ import annotations

import argparse
import os

from blkxact.block.backend import BlockBackend
from blkxact.errors import QmpError, strerror
from blkxact.image_tools.chain import chain_nodes
from blkxact.image_tools.compare import ImagesDifferError, compare_disks
from blkxact.image_tools.convert import Conversion, ConvertOptions
from blkxact.image_tools.open_images import ImageName, Images, node_of, open_images

from .errors import CliError
from .image_arguments import add_chain, add_progress, add_quiet, image_name
from .image_create import create_image, removing_new_files
from .image_options import add_create_options, given_options
from .image_progress import progress_bar


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("-O", dest="output_format", metavar="FORMAT", default="qcow2",
        help="format of the new image: qcow2 (default) or raw")  # fmt: skip
    add_create_options(parser)
    add("-c", dest="compress", action="store_true", help="compress the new image")
    add("--compare", action="store_true", help="then compare the new image with the chain")
    add_progress(parser)
    add_quiet(parser)
    add_chain(parser)
    add("output_filename", help="the new image")


async def serve(args: argparse.Namespace) -> int:
    """Restore it."""
    async with open_images(objects=args.objects) as images:
        source = await images.open(image_name(args), force_share=args.force_share)
        for node in chain_nodes(node_of(source)):
            if _same_file(node.filename, args.output_filename):
                raise CliError(f"'{args.output_filename}' is part of the chain")
        options = given_options(args)
        with removing_new_files(images.storage, args.output_filename, options):
            try:
                await create_image(
                    args.output_filename,
                    args.output_format,
                    source.length,
                    options=options,
                    objects=args.objects,
                )
            except QmpError as error:
                raise CliError(f"{args.output_filename}: {error.desc}") from error
            await _copy(images, source, args)
    if not args.quiet:
        print(f"'{args.filename}' restored to '{args.output_filename}'.")
    return 0


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - strings all the way
    except OSError:
        return False


async def _copy(images: Images, source: BlockBackend, args: argparse.Namespace) -> None:
    name = ImageName(args.output_filename, args.output_format)
    target = await images.open(name, writable=True)
    if args.compress and not node_of(target).driver.supports_compressed_writes:
        raise CliError("Compression not supported for this file format")
    options = ConvertOptions(compress=args.compress, target_is_blank=True)
    shown = args.progress and not args.quiet
    with progress_bar(shown=shown, what="restore" if args.compare else "") as progress:
        await Conversion([source], target, images.clock, options).run(progress)
    try:
        await images.finish(target)
    except OSError as error:
        raise CliError(f"error while writing: {strerror(error)}") from error
    if args.compare:
        copy = await images.open(name)
        try:
            with progress_bar(shown=shown, what="compare") as progress:
                await compare_disks(source, copy, progress=progress)
        except ImagesDifferError as difference:
            raise CliError(str(difference)) from difference
