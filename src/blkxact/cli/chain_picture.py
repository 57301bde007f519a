"""The picture of a backing chain in a terminal: who holds which part of the disk.

Each layer has a row, shaded by how much of each part it holds; the last row is the disk, where each
part is that of the layer which shows the most of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from blkxact.image_tools.chain import Layer

from .sizes import human_size

SHADES: Final = "·░▒▓█"
"""From nothing to full."""
STYLES: Final = ("blue", "green", "yellow", "magenta", "cyan", "red")
_LEVELS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def table(layers: Sequence[Layer]) -> Table:
    """Return what each layer holds, the uppermost first."""
    rows = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    rows.add_column("", no_wrap=True)
    rows.add_column("image", overflow="fold", min_width=8)
    for heading in ("size", "data", "zeroes", "extents", "shown", "on disk"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("written", no_wrap=True)
    for layer in layers:
        written = "" if layer.written is None else f"{layer.written.astimezone():%Y-%m-%d %H:%M}"
        rows.add_row(
            Text(level_name(layer), style(layer)),
            layer.filename,
            human_size(layer.virtual_size),
            human_size(layer.data),
            human_size(layer.zeroes),
            str(layer.extents),
            human_size(layer.visible),
            "" if layer.file_size is None else human_size(layer.file_size),
            written,
        )
    return rows


def picture(layers: Sequence[Layer]) -> Iterator[Text]:
    """Yield the rows of the picture."""
    for layer in layers:
        row = Text(f"{level_name(layer)} ")
        row.append("".join(shade(fraction) for fraction in layer.held.fractions()), style(layer))
        yield row
    row = Text("= ")
    for holder in holders(layers):
        row.append("·" if holder is None else level_name(holder), style(holder) if holder else "")
    yield row


def holders(layers: Sequence[Layer]) -> list[Layer | None]:
    """Return for each part of the disk the layer that shows the most of it."""
    parts = zip(*(layer.shown.cells for layer in layers), strict=True)
    return [
        layers[max(range(len(layers)), key=part.__getitem__)] if any(part) else None
        for part in parts
    ]


def shade(fraction: float) -> str:
    """Return the character for a part that is so full; only nothing is shown as nothing."""
    if fraction <= 0:
        return SHADES[0]
    return SHADES[1 + min(int(fraction * 4), 3)]


def level_name(layer: Layer) -> str:
    """Return one character for a layer."""
    return _LEVELS[layer.level] if layer.level < len(_LEVELS) else "+"


def style(layer: Layer) -> str:
    """Return the colour of a layer."""
    return STYLES[layer.level % len(STYLES)]
