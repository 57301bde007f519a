"""A backing chain as a table and a picture, laid out for the width and encoding of the output.

In the picture each layer has a row, shaded by how much of each part of the disk it holds. The row
``=`` is the disk: each part names the layer that shows the most of it. An axis and a legend follow.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from blkxact.image_tools.chain import Layer
from blkxact.qapi.sizes import human_size

from .boundary import is_byte, printable

STYLES: Final = ("blue", "green", "yellow", "magenta", "cyan", "red")
MIN_NAME_WIDTH: Final = 20
"""Columns of the table are left out rather than give the names less than this."""
LEGEND_WIDTH: Final = 100
_TICKS: Final = 4
_PREFIX: Final = 2
"""Characters before each row: the layer's and a space."""
_ESCAPE: Final = "backslashreplace"
_LEVELS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Look:
    """The characters that the output can show, and its width (None: no limit)."""

    width: int | None
    shades: str = "·░▒▓█"
    """From nothing to full."""
    ellipsis: str = "…"
    encoding: str = "utf-8"

    @classmethod
    def of(cls, encoding: str | None, width: int | None) -> Look:
        """Return what suits an output; ASCII where it cannot show more."""
        look = cls(width, encoding=encoding or "utf-8")
        try:
            (look.shades + look.ellipsis).encode(look.encoding)
        except UnicodeEncodeError:
            return cls(width, ".:+*#", "..", look.encoding)
        return look

    def name(self, text: str) -> str:
        """Return a file name as the output can show it."""
        return "".join(
            char if is_byte(char) else char.encode(self.encoding, _ESCAPE).decode(self.encoding)
            for char in printable(text)
        )

    def shade(self, fraction: float) -> str:
        """Return the character for a part that is so full; only nothing is shown as nothing."""
        if fraction <= 0:
            return self.shades[0]
        return self.shades[1 + min(int(fraction * 4), 3)]


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    cell: Callable[[Layer], str]


def _local_time(layer: Layer) -> str:
    return "" if layer.written is None else f"{layer.written.astimezone():%Y-%m-%d %H:%M}"


_COLUMNS: Final = (
    _Column("size", lambda layer: human_size(layer.virtual_size)),
    _Column("data", lambda layer: human_size(layer.data)),
    _Column("zeroes", lambda layer: human_size(layer.zeroes)),
    _Column("extents", lambda layer: str(layer.extents)),
    _Column("shown", lambda layer: human_size(layer.visible)),
    _Column(
        "on disk", lambda layer: "" if layer.file_size is None else human_size(layer.file_size)
    ),
    _Column("written", _local_time),
)
_LEFT_OUT_FIRST: Final = ("extents", "zeroes", "written", "on disk", "size", "shown", "data")


def table(layers: Sequence[Layer], look: Look) -> Iterator[Text]:
    """Yield the rows of the table: what each layer holds, the uppermost first."""
    names = [look.name(layer.filename) for layer in layers]
    columns = list(_COLUMNS)
    room = _room(layers, columns, look)
    if max(map(cell_len, names)) > room:
        names = _without_common_directory(names)
    least = min(MIN_NAME_WIDTH, max(map(cell_len, names)))
    left_out = iter(_LEFT_OUT_FIRST)
    while room < least and columns:
        heading = next(left_out)
        columns = [column for column in columns if column.heading != heading]
        room = _room(layers, columns, look)
    names = [_shorten(name, max(room, 1), look) for name in names]
    name_width = max(cell_len("image"), *map(cell_len, names))
    widths = [_width(layers, column) for column in columns]
    yield Text(_row("  ", "image", name_width, [column.heading for column in columns], widths))
    for layer, name in zip(layers, names, strict=True):
        row = Text(level_name(layer), style(layer))
        cells = [column.cell(layer) for column in columns]
        row.append(_row(" ", name, name_width, cells, widths), "default")
        yield row
    missing = [column.heading for column in _COLUMNS if column not in columns]
    if missing:
        yield from _paragraph(f"(no room for: {', '.join(missing)})", look)


def _room(layers: Sequence[Layer], columns: Sequence[_Column], look: Look) -> int:
    """Return the width that is left for names beside ``columns``."""
    used = _PREFIX + sum(1 + _width(layers, column) for column in columns)
    return (1 << 30 if look.width is None else look.width) - used


def _width(layers: Sequence[Layer], column: _Column) -> int:
    return max(len(column.heading), *(len(column.cell(layer)) for layer in layers))


def _row(
    prefix: str, name: str, name_width: int, cells: Sequence[str], widths: Sequence[int]
) -> str:
    padding = " " * (name_width - cell_len(name))
    pairs = zip(cells, widths, strict=True)
    return f"{prefix}{name}{padding}{''.join(f' {cell:>{width}}' for cell, width in pairs)}"


def _without_common_directory(names: list[str]) -> list[str]:
    directories = {os.path.dirname(name) for name in names}  # noqa: PTH120 - names may be URIs
    if len(directories) == 1 and "" not in directories:
        return [name[len(min(directories)) :].lstrip("/") for name in names]
    return names


def _shorten(name: str, width: int, look: Look) -> str:
    """Return the end of ``name``, in which images of a chain differ."""
    if cell_len(name) <= width:
        return name
    while name and cell_len(look.ellipsis + name) > width:
        name = name[1:]
    return look.ellipsis + name


def picture(layers: Sequence[Layer], look: Look) -> Iterator[Text]:
    """Yield the rows of the picture, its axis and its legend."""
    for layer in layers:
        row = Text(f"{level_name(layer)} ")
        shades = (look.shade(fraction) for fraction in layer.held.fractions())
        row.append("".join(shades), style(layer))
        yield row
    row = Text("= ")
    for holder in holders(layers):
        shown = look.shades[0] if holder is None else level_name(holder)
        row.append(shown, style(holder) if holder else "")
    yield row
    yield Text(f"  {axis(layers[0])}")
    yield from legend(layers[0], look)


def axis(layer: Layer) -> str:
    """Return marks at the quarters of the disk for which there is room."""
    disk = layer.held
    cells = len(disk.cells)
    line = f"{human_size(disk.length)}|".rjust(cells)
    for tick in range(_TICKS):
        at = cells * tick // _TICKS
        label = f"|{human_size(disk.border(at)) if at else 0} "
        end = at + len(label)
        if end < len(line) and not line[at:end].strip():
            line = line[:at] + label + line[end:]
    return line


def legend(layer: Layer, look: Look) -> Iterator[Text]:
    """Yield what the marks mean."""
    none, shades = look.shades[0], look.shades[1:]
    limits = ("under 25%", "under 50%", "under 75%", "more")
    marks = ", ".join(f"{shade} {limit}" for shade, limit in zip(shades, limits, strict=True))
    part = human_size(layer.held.border(1))
    yield Text()
    yield from _paragraph(
        f"One character is {part} of the disk; held of it: {none} nothing, {marks}.", look
    )
    yield from _paragraph("Row =: the image whose data the disk shows.", look)
    yield from _paragraph(
        "data, zeroes: held by the image; shown: its data that no image above hides.", look
    )


def _paragraph(text: str, look: Look) -> Iterator[Text]:
    width = min(LEGEND_WIDTH, look.width or LEGEND_WIDTH)
    yield from map(Text, textwrap.wrap(text, width, subsequent_indent="  "))


def holders(layers: Sequence[Layer]) -> list[Layer | None]:
    """Return for each part of the disk the layer that shows the most of it."""
    parts = zip(*(layer.shown.cells for layer in layers), strict=True)
    return [
        layers[max(range(len(layers)), key=part.__getitem__)] if any(part) else None
        for part in parts
    ]


def level_name(layer: Layer) -> str:
    """Return one character for a layer."""
    return _LEVELS[layer.level] if layer.level < len(_LEVELS) else "+"


def style(layer: Layer) -> str:
    """Return the colour of a layer."""
    return STYLES[layer.level % len(STYLES)]
