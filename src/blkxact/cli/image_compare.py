"""``blkxact image compare``: exit status 0 identical, 1 different, 2 an error."""

from __future__ import annotations

import argparse
from typing import Final

from blkxact.errors import QmpError
from blkxact.image_tools.compare import ImagesDifferError, MapError, ReadError, compare_disks
from blkxact.image_tools.open_images import open_images

from .errors import CliError
from .image_arguments import (
    add_force_share,
    add_format,
    add_progress,
    add_quiet,
    add_source_cache,
    image_name,
)
from .image_progress import progress_bar

IDENTICAL: Final = 0
DIFFERENT: Final = 1
NOT_OPENED: Final = 2
NOT_MAPPED: Final = 3
NOT_READ: Final = 4


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_format(parser, "format of the first image")
    add = parser.add_argument
    add("-F", dest="other_format", metavar="FORMAT", help="format of the second image")
    add("-s", dest="strict", action="store_true", help="sizes and allocation must be equal too")
    add_quiet(parser)
    add_progress(parser)
    add_source_cache(parser)
    add_force_share(parser)
    add("filename", help="the first image")
    add("other", help="the second image")
    parser.epilog = (
        "exit status: 0 identical, 1 different; not compared: 2 cannot open, 3 map, 4 read"
    )


async def serve(args: argparse.Namespace) -> int:
    """Compare."""
    try:
        await _compare(args)
    except ImagesDifferError as difference:
        if not args.quiet:
            print(difference)
        return DIFFERENT
    except ReadError as error:
        raise CliError(str(error), status=NOT_READ) from error
    except MapError as error:
        raise CliError(str(error), status=NOT_MAPPED) from error
    except QmpError as error:
        raise CliError(str(error), status=NOT_OPENED) from error
    if not args.quiet:
        print("Images are identical.")
    return IDENTICAL


async def _compare(args: argparse.Namespace) -> None:
    first = image_name(args)
    args.format = args.other_format
    second = image_name(args, args.other)
    async with open_images(objects=args.objects) as images:
        one = await images.open(first, force_share=args.force_share)
        other = await images.open(second, force_share=args.force_share)
        warn = (lambda _text: None) if args.quiet else print
        with progress_bar(shown=args.progress and not args.quiet) as progress:
            await compare_disks(one, other, strict=args.strict, progress=progress, warn=warn)
