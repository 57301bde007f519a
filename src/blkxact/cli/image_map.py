"""``blkxact image map``: which layer decides each range of a disk, and where it lies."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from typing import Final

from blkxact.errors import strerror
from blkxact.image_tools.map import MapEntry, map_disk
from blkxact.image_tools.open_images import node_of, open_images
from blkxact.qmp.json_text import encode_text

from .errors import CliError
from .image_arguments import add_force_share, add_format, add_output, image_name
from .sizes import parse_size

_HEADINGS: Final = ("Offset", "Length", "Mapped to")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_format(parser)
    add_output(parser)
    add = parser.add_argument
    add(
        "-s",
        "--start-offset",
        dest="start",
        metavar="OFFSET",
        default="0",
        help="start at this offset (default 0)",
    )
    add("-l", "--max-length", dest="length", metavar="LENGTH", help="show at most this many bytes")
    add_force_share(parser)
    add("filename", help="the image")


async def serve(args: argparse.Namespace) -> int:
    """Show the map."""
    start = parse_size(args.start)
    async with open_images(objects=args.objects) as images:
        node = node_of(await images.open(image_name(args), force_share=args.force_share))
        end = node.length
        if args.length is not None:
            end = min(end, start + parse_size(args.length))
        entries = map_disk(node, start, end)
        try:
            if args.output == "json":
                await _print_json(entries, start)
            else:
                await _print_text(entries)
        except OSError as error:
            raise CliError(f"Could not read file metadata: {strerror(error)}") from error
    return 0


async def _print_json(entries: AsyncIterator[MapEntry], start: int) -> None:
    """Print one entry per line, as they are found: a map may be long. It is never without any."""
    before = "["
    async for entry in entries:
        print(before, _as_json(entry), sep="", end="")
        before = ",\n"
    if before == "[":
        nothing = MapEntry(start, 0, data=False, zero=False, present=False, depth=0)
        print(before, _as_json(nothing), sep="", end="")
    print("]")


def _as_json(entry: MapEntry) -> str:
    """Return the entry with the blanks that QEMU has: some read it line by line."""
    return "{ " + encode_text(entry.describe())[1:]


async def _print_text(entries: AsyncIterator[MapEntry]) -> None:
    print("".join(f"{heading:16}" for heading in _HEADINGS) + "File")
    pending: MapEntry | None = None
    async for entry in entries:
        if entry.data and entry.offset is None:
            raise CliError("File contains external, encrypted or compressed clusters.")
        if not entry.data or entry.zero:
            continue
        pending = _print_or_join(pending, entry)
    if pending is not None:
        _print_line(pending)


def _print_or_join(pending: MapEntry | None, entry: MapEntry) -> MapEntry:
    if pending is not None and pending.end == entry.start and entry.follows(pending):
        return pending._replace(length=pending.length + entry.length)
    if pending is not None:
        _print_line(pending)
    return entry


def _print_line(entry: MapEntry) -> None:
    numbers = (entry.start, entry.length, entry.offset or 0)
    print("".join(f"{_hex(number):16}" for number in numbers) + (entry.filename or ""))


def _hex(number: int) -> str:
    """Return a number as C prints it with ``%#x``."""
    return f"{number:#x}" if number else "0"
