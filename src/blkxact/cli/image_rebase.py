"""``blkxact image rebase``: another backing file for an image, which reads the same."""

from __future__ import annotations

import argparse

from blkxact.errors import QmpError
from blkxact.image_tools.open_images import open_images
from blkxact.image_tools.rebase import rebase

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
from .image_progress import progress_bar


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_format(parser)
    add = parser.add_argument
    add("-b", dest="backing", metavar="FILE", help='the new backing file; "" for none')
    add("-F", dest="backing_format", metavar="FORMAT", help="format of the new backing file")
    add("-u", dest="unsafe", action="store_true", help="only write the name: the content of old "
        "and new backing file is the same")  # fmt: skip
    add_cache(parser)
    add_source_cache(parser)
    add_force_share(parser)
    add_progress(parser)
    add_quiet(parser)
    add("filename", help="the image whose backing file changes")


async def serve(args: argparse.Namespace) -> int:
    """Rebase."""
    if args.backing is None and not args.unsafe:
        raise CliError("Must specify backing file (-b) or use unsafe mode (-u)")
    async with open_images(objects=args.objects) as images:
        try:
            with progress_bar(shown=args.progress and not args.quiet) as progress:
                await rebase(
                    images,
                    image_name(args, cache=args.cache),
                    args.backing,
                    args.backing_format,
                    unsafe=args.unsafe,
                    force_share=args.force_share,
                    source_cache=args.source_cache,
                    progress=progress,
                )
        except QmpError as error:
            raise CliError(error.desc) from error
    return 0
