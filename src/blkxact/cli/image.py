"""``blkxact image``: what ``qemu-img`` is to QEMU, with its options and its exit statuses."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, Final, cast

from blkxact.errors import QmpError

from . import image_info
from .errors import CliError
from .image_compare import ImagesDifferError, compare_disks
from .image_create import create_image
from .image_files import open_images
from .keyval import parse_opts
from .sizes import parse_size

IDENTICAL: Final = 0
DIFFERENT: Final = 1
NOT_COMPARED: Final = 2


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands of ``image``."""
    commands = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)

    create = commands.add_parser("create", help="make an image", allow_abbrev=False)
    create.set_defaults(serve=_create)
    add = create.add_argument
    add("-f", dest="format", metavar="FORMAT", default="raw", help="raw (default) or qcow2")
    add("-o", dest="options", metavar="NAME=VALUE,...", action="append", default=[],
        help="options of the format, for example cluster_size=4k")  # fmt: skip
    add("-b", dest="backing", metavar="FILE", help="backing file")
    add("-F", dest="backing_format", metavar="FORMAT", help="format of the backing file")
    add("-u", dest="unsafe", action="store_true", help="do not open the backing file")
    add("-q", dest="quiet", action="store_true", help="print nothing but errors")
    add("filename")
    add("size", nargs="?", help="bytes, or with a suffix: 64M; default: that of the backing file")

    info = commands.add_parser("info", help="show what an image is", allow_abbrev=False)
    info.set_defaults(serve=_info)
    add = info.add_argument
    add("-f", dest="format", metavar="FORMAT", help="default: look at the image")
    add("--output", choices=("human", "json"), default="human")
    add("--backing-chain", action="store_true", help="the image and all below it")
    add("-U", "--force-share", action="store_true", help="also when it is being written to")
    add("filename")

    compare = commands.add_parser(
        "compare", help="tell whether two images hold the same", allow_abbrev=False
    )
    compare.set_defaults(serve=_compare)
    add = compare.add_argument
    add("-f", dest="format", metavar="FORMAT", help="format of the first image")
    add("-F", dest="other_format", metavar="FORMAT", help="format of the second image")
    add("-s", dest="strict", action="store_true", help="sizes and allocation must be equal too")
    add("-q", dest="quiet", action="store_true", help="print nothing but errors")
    add("-U", "--force-share", action="store_true", help="also when they are being written to")
    add("filename")
    add("other")
    compare.epilog = "exit status: 0 identical, 1 different, 2 an error"


def run(args: argparse.Namespace) -> int:
    """Do what the verb says."""
    return cast("int", asyncio.run(args.serve(args)))


async def _create(args: argparse.Namespace) -> int:
    options: dict[str, Any] = {}
    for text in args.options:
        options.update(parse_opts(text))
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
            tell=(lambda _text: None) if args.quiet else (lambda text: print(text, end="")),
        )
    except (QmpError, CliError) as error:
        raise CliError(f"{args.filename}: {error}") from error
    return 0


async def _info(args: argparse.Namespace) -> int:
    async with open_images() as images:
        infos = await image_info.chain_info(
            images,
            args.filename,
            args.format,
            whole_chain=args.backing_chain,
            force_share=args.force_share,
        )
    if args.output == "json":
        print(image_info.as_json(infos, whole_chain=args.backing_chain))
    else:
        print(image_info.as_text(infos))
    return 0


async def _compare(args: argparse.Namespace) -> int:
    try:
        return await _compare_images(args)
    except ImagesDifferError as difference:
        if not args.quiet:
            print(difference)
        return DIFFERENT
    except QmpError as error:
        raise CliError(str(error), status=NOT_COMPARED) from error
    except OSError as error:
        raise CliError(f"cannot read: {error.strerror}", status=NOT_COMPARED) from error


async def _compare_images(args: argparse.Namespace) -> int:
    async with open_images() as images:
        one = await images.open(args.filename, args.format, force_share=args.force_share)
        other = await images.open(args.other, args.other_format, force_share=args.force_share)
        if one.length != other.length and not args.quiet and not args.strict:
            print("Warning: Image size mismatch!")
        await compare_disks(one, other, strict=args.strict)
    if not args.quiet:
        print("Images are identical.")
    return IDENTICAL
