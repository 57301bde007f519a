"""``blkxact chain``: a backup as a chain of images; show it, verify it, restore it to one image."""

from __future__ import annotations

import argparse
import asyncio
from typing import Final, cast

from .parser import add_verbs

VERBS: Final = {
    "show": (
        "show what each image of a chain holds",
        "Show what each image of a backing chain holds, as a table and as a picture of the disk.",
    ),
    "verify": (
        "look for broken links and damage",
        (
            "Check that every image of a backing chain exists, can be opened, has sound metadata "
            "and fits the image above it."
        ),
    ),
    "flatten": (
        "restore a chain to one image",
        "Copy the disk that a backing chain makes into one new image without a backing file.",
    ),
}
"""Summary and description of each, served by ``cli.chain_<verb>``: ``configure(parser)`` and
``await serve(args)``."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs of ``chain``."""
    add_verbs(parser, "chain", VERBS)


def run(args: argparse.Namespace) -> int:
    """Do what the verb says."""
    return cast("int", asyncio.run(args.serve(args)))
