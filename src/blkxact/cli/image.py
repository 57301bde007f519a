"""``blkxact image``: what ``qemu-img`` is to QEMU, with its options and its exit statuses."""

from __future__ import annotations

import argparse
import asyncio
from typing import Final, cast

from .parser import VerbParser

VERBS: Final = {
    "create": "make an image",
    "info": "show what an image is",
    "check": "look for errors in an image, and repair them",
    "map": "show where the data of a disk lies",
    "compare": "tell whether two images hold the same",
    "bitmap": "add, remove, clear and merge the dirty bitmaps in an image",
    "snapshot": "list, make, apply and delete the internal snapshots of an image",
    "resize": "change the size of a disk",
    "convert": "copy a disk into a new image, of another format perhaps",
    "rebase": "put an image on another backing file",
}
"""Each is served by ``cli.image_<verb>``: ``configure(parser)`` and ``await serve(args)``."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs of ``image``."""
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", title="verbs", required=True, parser_class=VerbParser
    )
    for name, summary in VERBS.items():
        verbs.add_parser(name, help=summary, room=f"{__package__}.image_{name}")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says."""
    return cast("int", asyncio.run(args.serve(args)))
