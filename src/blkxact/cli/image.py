"""``blkxact image``: what ``qemu-img`` is to QEMU, with its options and its exit statuses."""

from __future__ import annotations

import argparse
import asyncio
from typing import Final, cast

from .parser import add_verbs

VERBS: Final = {
    "create": (
        "create an image",
        "Create an image of SIZE bytes. With a backing file the size is optional.",
    ),
    "info": (
        "show an image's format, size, backing file, snapshots and bitmaps",
        "Show an image's format, size, backing file, snapshots and bitmaps. No data is read.",
    ),
    "check": (
        "check an image for errors, and repair them",
        "Check the metadata of an image for errors, and repair them with -r.",
    ),
    "map": (
        "show which ranges of a disk are allocated, and where",
        (
            "Show which ranges of a disk hold data, in which image of its backing chain, "
            "and at which offset."
        ),
    ),
    "compare": (
        "compare the contents of two images",
        "Compare the contents that a guest would see in two images, whatever their formats.",
    ),
    "bitmap": (
        "add, remove, clear, enable, disable and merge the dirty bitmaps in an image",
        (
            "Change a dirty bitmap that is stored in an image. Several changes are made in the "
            "order given: all of them, or none."
        ),
    ),
    "snapshot": (
        "list, create, apply and delete the internal snapshots of an image",
        "List, create, apply or delete the internal snapshots of an image.",
    ),
    "resize": (
        "change the size of an image",
        "Change the virtual size of an image. What is added reads as zeroes.",
    ),
    "convert": (
        "copy images into a new image, optionally of another format",
        "Copy one or more images, one after the other, into a new image.",
    ),
    "rebase": (
        "change the backing file of an image",
        (
            "Change the backing file of an image. What it would change for a guest is copied into "
            "the image first; -u changes the name only."
        ),
    ),
}
"""Summary and description of each, served by ``cli.image_<verb>``: ``configure(parser)`` and
``await serve(args)``."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs of ``image``."""
    add_verbs(parser, "image", VERBS)


def run(args: argparse.Namespace) -> int:
    """Do what the verb says."""
    return cast("int", asyncio.run(args.serve(args)))
