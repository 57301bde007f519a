"""``blkxact chain verify``: broken links and damage in a chain."""

from __future__ import annotations

import argparse
from typing import Final

from blkxact.image_tools.chain_verify import Severity, verify_chain
from blkxact.image_tools.open_images import open_images

from .image_arguments import add_chain, add_output, add_quiet, image_name

SOUND: Final = 0
BROKEN: Final = 2
LEAKS: Final = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_output(parser)
    add_quiet(parser)
    parser.epilog = "exit status: 0 sound, 1 not verified, 2 broken, 3 leaked clusters only"
    add_chain(parser)


async def serve(args: argparse.Namespace) -> int:
    """Verify it."""
    async with open_images(objects=args.objects) as images:
        verdict = await verify_chain(images, image_name(args), force_share=args.force_share)
    if args.output == "json" and not args.quiet:
        from blkxact.qmp.json_text import encode_text  # noqa: PLC0415 - a person needs no JSON

        print(encode_text(verdict.describe(), indent=4))
    elif not args.quiet:
        for finding in verdict.findings:
            print(f"{finding.filename}: {finding.severity.value}: {finding.text}")
        if not verdict.findings:
            print(f"No errors were found on the {len(verdict.images)} images of the chain.")
    if verdict.has(Severity.ERROR):
        return BROKEN
    return LEAKS if verdict.has(Severity.LEAKS) else SOUND
