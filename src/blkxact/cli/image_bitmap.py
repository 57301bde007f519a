"""``blkxact image bitmap``: the dirty bitmaps that an image keeps."""

from __future__ import annotations

import argparse
from typing import Final

from blkxact.errors import QmpError, strerror
from blkxact.image_tools.bitmap import BitmapChange, change_bitmaps, remove_broken
from blkxact.image_tools.open_images import node_of, open_images

from .errors import CliError
from .image_arguments import add_format, image_name
from .sizes import parse_size

_SIMPLE: Final = {
    "add": "create the bitmap",
    "remove": "delete the bitmap",
    "clear": "clear all of its bits",
    "enable": "let it record writes when the image is in use",
    "disable": "stop it from recording writes",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options; the steps are done in the order in which they are given."""
    add = parser.add_argument
    for verb, summary in _SIMPLE.items():
        add(f"--{verb}", dest="changes", action="append_const", const=BitmapChange(verb),
            help=summary)  # fmt: skip
    add("--merge", dest="changes", action="append", metavar="SOURCE", type=_merge,
        help="set the bits that are set in the bitmap SOURCE")  # fmt: skip
    add("-b", "--source-file", dest="source", metavar="FILE", help="the image that holds SOURCE")
    add("-F", "--source-format", dest="source_format", metavar="FORMAT", help="format of FILE")
    add("-g", "--granularity", metavar="BYTES", help="of the bitmap to add")
    add_format(parser)
    add("filename", help="the image")
    add("bitmap", help="name of the bitmap")


def _merge(source: str) -> BitmapChange:
    return BitmapChange("merge", source)


async def serve(args: argparse.Namespace) -> int:
    """Do the steps; all or none."""
    verbs = _checked_verbs(args)
    granularity = None if args.granularity is None else parse_size(args.granularity)
    if granularity and "add" not in verbs:
        raise CliError("granularity only supported with --add")
    async with open_images(with_layer=True, objects=args.objects) as images:
        # A backing file has no part in this.
        name = image_name(args)
        try:
            backend = await images.open(name, backing=False, writable=True)
        except QmpError:
            if verbs == {"remove"} and await remove_broken(images, name, args.bitmap):
                return 0
            raise
        source = None
        if args.source is not None:
            opened = await images.open(args.source, args.source_format, backing=False)
            source = node_of(opened)
        try:
            await change_bitmaps(
                images,
                backend,
                args.bitmap,
                args.changes,
                granularity=granularity or None,
                source=source,
            )
        except QmpError as error:
            raise CliError(error.desc) from error
        except OSError as error:
            raise CliError(f"Could not store bitmap '{args.bitmap}': {strerror(error)}") from error
    return 0


def _checked_verbs(args: argparse.Namespace) -> set[str]:
    if not args.changes:
        raise CliError(
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"
        )
    verbs = {change.verb for change in args.changes}
    if args.source_format is not None and args.source is None:
        raise CliError("-F only supported with -b")
    if args.source is not None and "merge" not in verbs:
        raise CliError("Merge bitmap source file only supported with --merge")
    return verbs
