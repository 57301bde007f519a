"""``blkxact chain``: a backup as a chain of images; show it, verify it, restore it to one image."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import Final, cast

from blkxact.block.backend import BlockBackend
from blkxact.errors import QmpError, strerror
from blkxact.image_tools.chain import DEFAULT_CELLS, Layer, chain_layers, chain_nodes
from blkxact.image_tools.chain_verify import Severity, verify_chain
from blkxact.image_tools.compare import ImagesDifferError, compare_disks
from blkxact.image_tools.convert import Conversion, ConvertOptions
from blkxact.image_tools.open_images import ImageName, Images, node_of, open_images
from blkxact.qmp.json_text import encode_text

from .errors import CliError
from .image_arguments import (
    add_force_share,
    add_format,
    add_output,
    add_progress,
    add_quiet,
    image_name,
)
from .image_create import create_image, removing_new_files
from .image_options import add_create_options, given_options
from .image_progress import progress_bar

SOUND: Final = 0
BROKEN: Final = 2
LEAKS: Final = 3
MIN_CELLS: Final = 16
"""Parts of the disk in a picture, however narrow the terminal."""
CELLS_MULTIPLE: Final = 4
"""A mark of the axis is then at the beginning of a part."""
_WIDTH_BESIDE_PICTURE: Final = 3

_SUMMARIES: Final = {
    "show": "show what each image of a chain holds",
    "verify": "look for broken links and damage",
    "flatten": "restore a chain to one image",
}
_DESCRIPTIONS: Final = {
    "show": "Show what each image of a backing chain holds, as a table and as a picture of the "
    "disk.",
    "verify": "Check that every image of a backing chain exists, can be opened, has sound metadata "
    "and fits the image above it.",
    "flatten": "Copy the disk that a backing chain makes into one new image without a backing "
    "file.",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs of ``chain``."""
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", title="verbs", required=True, prog=parser.prog
    )
    _configure_show(_add_verb(verbs, "show"))
    _configure_verify(_add_verb(verbs, "verify"))
    _configure_flatten(_add_verb(verbs, "flatten"))


def _add_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name, help=_SUMMARIES[name], description=_DESCRIPTIONS[name], allow_abbrev=False
    )


def _add_chain(verb: argparse.ArgumentParser) -> None:
    add_format(verb)
    add_force_share(verb)
    verb.add_argument("filename", help="the uppermost image")


def _configure_show(verb: argparse.ArgumentParser) -> None:
    verb.set_defaults(serve=_show)
    add_output(verb)
    _add_chain(verb)


def _configure_verify(verb: argparse.ArgumentParser) -> None:
    verb.set_defaults(serve=_verify)
    add_output(verb)
    add_quiet(verb)
    verb.epilog = "exit status: 0 sound, 1 not verified, 2 broken, 3 leaked clusters only"
    _add_chain(verb)


def _configure_flatten(verb: argparse.ArgumentParser) -> None:
    verb.set_defaults(serve=_flatten)
    add = verb.add_argument
    add("-O", dest="output_format", metavar="FORMAT", default="qcow2",
        help="format of the new image: qcow2 (default) or raw")  # fmt: skip
    add_create_options(verb)
    add("-c", dest="compress", action="store_true", help="compress the new image")
    add("--compare", action="store_true", help="then compare the new image with the chain")
    add_progress(verb)
    add_quiet(verb)
    _add_chain(verb)
    add("output_filename", help="the new image")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says."""
    return cast("int", asyncio.run(args.serve(args)))


async def _show(args: argparse.Namespace) -> int:
    if args.output == "json":
        print(encode_text([layer.describe() for layer in await _layers(args)], indent=4))
        return 0
    # These take long to load; JSON does not need them.
    from rich.console import Console  # noqa: PLC0415

    from . import chain_picture  # noqa: PLC0415

    console = Console(file=sys.stdout, highlight=False)
    width = console.width if console.is_terminal else None
    cells = DEFAULT_CELLS
    if width is not None:
        cells = max(MIN_CELLS, (width - _WIDTH_BESIDE_PICTURE) // CELLS_MULTIPLE * CELLS_MULTIPLE)
    layers = await _layers(args, cells)
    look = chain_picture.Look.of(sys.stdout.encoding, width)
    for row in (*chain_picture.table(layers, look), "", *chain_picture.picture(layers, look)):
        console.print(row, soft_wrap=True)
    return 0


async def _layers(args: argparse.Namespace, cells: int = DEFAULT_CELLS) -> list[Layer]:
    async with open_images(objects=args.objects) as images:
        top = node_of(await images.open(image_name(args), force_share=args.force_share))
        try:
            return await chain_layers(top, cells)
        except OSError as error:
            raise CliError(f"Could not read file metadata: {strerror(error)}") from error


async def _verify(args: argparse.Namespace) -> int:
    async with open_images(objects=args.objects) as images:
        verdict = await verify_chain(images, image_name(args), force_share=args.force_share)
    if args.output == "json" and not args.quiet:
        print(encode_text(verdict.describe(), indent=4))
    elif not args.quiet:
        for finding in verdict.findings:
            print(f"{finding.filename}: {finding.severity.value}: {finding.text}")
        if not verdict.findings:
            print(f"No errors were found on the {len(verdict.images)} images of the chain.")
    if verdict.has(Severity.ERROR):
        return BROKEN
    return LEAKS if verdict.has(Severity.LEAKS) else SOUND


async def _flatten(args: argparse.Namespace) -> int:
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
