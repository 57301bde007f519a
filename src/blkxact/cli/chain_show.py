"""``blkxact chain show``: what each image of a chain holds, as a table and a picture or JSON."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Final

from blkxact.errors import strerror
from blkxact.image_tools.chain import DEFAULT_CELLS, Layer, chain_layers
from blkxact.image_tools.open_images import node_of, open_images

from .errors import CliError
from .image_arguments import add_chain, add_output, image_name

if TYPE_CHECKING:
    from rich.console import Console

MIN_CELLS: Final = 16
"""Parts of the disk in a picture, however narrow the terminal."""
CELLS_MULTIPLE: Final = 4
"""A mark of the axis is then at the beginning of a part."""
_WIDTH_BESIDE_PICTURE: Final = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_output(parser)
    add_chain(parser)


async def serve(args: argparse.Namespace) -> int:
    """Show it."""
    if args.output == "json":
        from blkxact.qmp.json_text import encode_text  # noqa: PLC0415 - a person needs no JSON

        print(encode_text([layer.describe() for layer in await _layers(args)], indent=4))
        return 0
    from . import chain_picture  # noqa: PLC0415 - JSON needs none

    console = _console()
    width = None if console is None else console.width
    cells = DEFAULT_CELLS
    if width is not None:
        cells = max(MIN_CELLS, (width - _WIDTH_BESIDE_PICTURE) // CELLS_MULTIPLE * CELLS_MULTIPLE)
    layers = await _layers(args, cells)
    look = chain_picture.Look.of(sys.stdout.encoding, width)
    for row in (*chain_picture.table(layers, look), "", *chain_picture.picture(layers, look)):
        if console is None:
            print(row)
        else:
            console.print(row, soft_wrap=True)
    return 0


async def _layers(args: argparse.Namespace, cells: int = DEFAULT_CELLS) -> list[Layer]:
    async with open_images(objects=args.objects) as images:
        top = node_of(await images.open(image_name(args), force_share=args.force_share))
        try:
            return await chain_layers(top, cells)
        except OSError as error:
            raise CliError(f"Could not read file metadata: {strerror(error)}") from error


def _console() -> Console | None:
    """Return the terminal, or what is to be written to as to one; None: there is none."""
    if not sys.stdout.isatty() and not os.environ.get("FORCE_COLOR"):
        return None
    from rich.console import Console  # noqa: PLC0415 - a fifth of the time, and only for colours

    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else None
