"""``blkxact image resize``: another size for a disk, absolute or by so much."""

from __future__ import annotations

import argparse
import re
from typing import Final

from blkxact.enums import PreallocMode
from blkxact.errors import QmpError, strerror
from blkxact.image_tools.open_images import node_of, open_images

from .errors import CliError
from .image_arguments import add_format, add_quiet, image_name
from .sizes import parse_size

_NEGATIVE_SIZE: Final = re.compile(r"-[\d.]+[bkmgtpeBKMGTPE]?")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_format(parser)
    add = parser.add_argument
    add(
        "--preallocation",
        metavar="MODE",
        default=PreallocMode.OFF,
        help=f"how what is added is allocated: {', '.join(PreallocMode)} (default off)",
    )
    add("--shrink", action="store_true", help="allow the disk to become smaller")
    add_quiet(parser)
    add("filename", help="the image")
    add("size", help="bytes, or with a suffix: 64M; +1G adds, -1G takes away")
    # argparse takes -1 for an argument, but -1G for an option, unless it is configured otherwise.
    parser._negative_number_matcher = _NEGATIVE_SIZE  # noqa: SLF001 - there is no other way


async def serve(args: argparse.Namespace) -> int:
    """Resize."""
    prealloc = PreallocMode.named(args.preallocation)
    if prealloc is None:
        raise CliError(f"Invalid preallocation mode '{args.preallocation}'")
    sign = args.size[0] if args.size[:1] in ("+", "-") else ""
    given = parse_size(args.size.removeprefix(sign) if sign else args.size)
    async with open_images(objects=args.objects) as images:
        backend = await images.open(image_name(args), resize=True)
        old = node_of(backend).length
        new = {"": given, "+": old + given, "-": old - given}[sign]
        _check(old, new, args)
        try:
            await backend.truncate(new, prealloc=prealloc)
            await images.finish(backend)
        except QmpError as error:
            raise CliError(error.desc) from error
        except OSError as error:
            raise CliError(f"Could not resize image: {strerror(error)}") from error
    if not args.quiet:
        print("Image resized.")
    return 0


def _check(old: int, new: int, args: argparse.Namespace) -> None:
    if new <= 0:
        raise CliError("New image size must be positive")
    if new <= old and args.preallocation != PreallocMode.OFF:
        raise CliError("Preallocation can only be used for growing images")
    if new < old and not args.shrink:
        raise CliError(
            "Use the --shrink option to perform a shrink operation: it deletes all data beyond "
            "the new end"
        )
