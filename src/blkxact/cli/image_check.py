"""``blkxact image check``: exit status 0 good, 1 not checked, 2 corrupt, 3 leaks, 63 no checks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Final

from blkxact.drivers.qcow2.check import CheckResult
from blkxact.errors import QmpError, strerror
from blkxact.image_tools.check import ImageCheck, NoChecksError, Repair, check
from blkxact.image_tools.open_images import open_images

from .errors import CliError
from .image_arguments import (
    add_force_share,
    add_format,
    add_output,
    add_quiet,
    add_source_cache,
    image_name,
)

GOOD: Final = 0
NOT_CHECKED: Final = 1
CORRUPT: Final = 2
LEAKS: Final = 3
NO_CHECKS: Final = 63


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_format(parser)
    add_output(parser)
    add = parser.add_argument
    add("-r", "--repair", choices=("leaks", "all"), help="repair: leaks only, or all errors")
    add_quiet(parser)
    add_source_cache(parser)
    add_force_share(parser)
    add("filename", help="the image")
    parser.epilog = (
        "exit status: 0 good, 1 could not be checked, 2 corrupt, 3 leaked clusters, "
        "63 the format has no checks"
    )


async def serve(args: argparse.Namespace) -> int:
    """Check, and repair if asked to."""
    if args.repair and args.force_share:
        raise CliError("force-share=on can only be used with read-only images")
    async with open_images(objects=args.objects) as images:
        try:
            checked = await check(
                images,
                image_name(args),
                repair=Repair(args.repair or "nothing"),
                force_share=args.force_share,
            )
        except NoChecksError as error:
            raise CliError(error.desc, status=NO_CHECKS) from error
        except OSError as error:
            raise CliError(f"Check failed: {strerror(error)}") from error
        except QmpError as error:
            raise CliError(error.desc, status=NOT_CHECKED) from error
    _print(checked, args)
    if checked.left.check_errors:
        raise CliError("Check failed", status=NOT_CHECKED)
    if checked.left.corruptions:
        return CORRUPT
    return LEAKS if checked.left.leaks else GOOD


def _print(checked: ImageCheck, args: argparse.Namespace) -> None:
    for message in checked.found.messages:
        print(message, file=sys.stderr)
    if args.quiet:
        return
    if args.output == "json":
        from blkxact.qmp.json_text import encode_text  # noqa: PLC0415 - a person needs no JSON

        print(encode_text(checked.describe(), indent=4))
        return
    if checked.left is not checked.found:
        print(
            "The following inconsistencies were found and repaired:\n\n"
            f"    {checked.found.leaks_fixed} leaked clusters\n"
            f"    {checked.found.corruptions_fixed} corruptions\n\n"
            "Double checking the fixed image now..."
        )
        for message in checked.left.messages:
            print(message, file=sys.stderr)
    for line in _lines(checked.left):
        print(line)


def _lines(result: CheckResult) -> Iterator[str]:
    if not (result.corruptions or result.leaks or result.check_errors):
        yield "No errors were found on the image."
    if result.corruptions:
        yield (
            f"\n{result.corruptions} errors were found on the image.\n"
            "Data may be corrupted, or further writes to the image may corrupt it."
        )
    if result.leaks:
        yield (
            f"\n{result.leaks} leaked clusters were found on the image.\n"
            "This means waste of disk space, but no harm to data."
        )
    if result.check_errors:
        yield f"\n{result.check_errors} internal errors have occurred during the check."
    if result.total_clusters and result.allocated_clusters:
        allocated = result.allocated_clusters
        yield (
            f"{allocated}/{result.total_clusters} = "
            f"{100 * allocated / result.total_clusters:.2f}% allocated, "
            f"{100 * result.fragmented_clusters / allocated:.2f}% fragmented, "
            f"{100 * result.compressed_clusters / allocated:.2f}% compressed clusters"
        )
    if result.image_end_offset:
        yield f"Image end offset: {result.image_end_offset}"
