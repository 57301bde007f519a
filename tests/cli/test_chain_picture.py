"""The table and the picture of ``chain show`` at any width, and where the output has ASCII only."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from blkxact.cli import chain_picture
from blkxact.cli.chain_picture import Look
from blkxact.image_tools.chain import Layer, Picture

MIB = 1 << 20
WRITTEN = datetime(2026, 11, 27, 6, 30, tzinfo=UTC)


def layer(level, name, *held, cells=64, length=8 * MIB):
    made = Layer(
        level, name, "qcow2", length, 3 * MIB, WRITTEN,
        Picture.empty(length, cells), Picture.empty(length, cells),
    )  # fmt: skip
    for offset, size in held:
        made.held.add(offset, size)
        made.shown.add(offset, size)
        made.data += size
    return made


def chain(cells=64, length=8 * MIB, directory="/backup"):
    return [
        layer(1, f"{directory}/increment-of-monday.qcow2", (0, MIB), cells=cells, length=length),
        layer(0, f"{directory}/full.qcow2", (MIB, 3 * MIB), cells=cells, length=length),
    ]


def lines(rows):
    return [row.plain for row in rows]


def shown(layers, look):
    return lines([*chain_picture.table(layers, look), *chain_picture.picture(layers, look)])


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
def test_chain_fits_the_width_and_names_can_be_told_apart(width):
    text = shown(chain(cells=width - 4), Look.of("utf-8", width))
    assert max(map(len, text)) <= width
    assert "monday.qcow2" in text[1]
    assert "full.qcow2" in text[2]


def test_chain_at_40_columns_says_what_is_left_out():
    text = shown(chain(), Look.of("utf-8", 40))
    assert text[:3] == [
        "  image                 size  data shown",
        "1 …ent-of-monday.qcow2 8 MiB 1 MiB   0 B",
        "0 full.qcow2           8 MiB 3 MiB   0 B",
    ]
    assert text[3].startswith("(no room for: zeroes, extents")


def test_chain_without_a_limit_has_whole_names_and_all_columns():
    name = "/a/very/long/name" * 20
    text = shown([layer(0, name)], Look.of("utf-8", None))
    assert name in text[1]
    assert text[0].split() == [
        "image", "size", "data", "zeroes", "extents", "shown", "on", "disk", "written",
    ]  # fmt: skip


def test_chain_axis_has_the_quarters_of_the_disk():
    assert chain_picture.axis(layer(0, "a")) == (
        "|0              |2 MiB          |4 MiB          |6 MiB    8 MiB|"
    )
    assert chain_picture.axis(layer(0, "a", cells=16)) == "|0        8 MiB|"
    assert chain_picture.axis(layer(0, "a", length=0)) == "0 B|"
    assert chain_picture.axis(layer(0, "a", length=3)) == "3 B|"


def test_chain_in_ascii_has_other_marks_and_escaped_names():
    layers = chain(directory="/résumé\x1b")
    for look in (Look.of("ascii", 80), Look.of("latin-1", 80)):
        text = shown(layers, look)
        assert all("·" not in line and "█" not in line for line in text)
        assert "1 " + "#" * 8 + "." * 56 in text
        assert any(". nothing, : under 25%" in line for line in text)
    wide = shown(layers, Look.of("ascii", None))
    assert wide[1].startswith(r"1 /r\xe9sum\xe9\x1b/increment")
    assert wide[1].isascii()


def test_chain_name_that_is_markup_is_shown_as_it_is():
    rows = list(chain_picture.table([layer(0, "[/x]:smile:[red]")], Look.of("utf-8", None)))
    assert "[/x]:smile:[red]" in rows[1].plain


@pytest.mark.parametrize(
    ("fraction", "character"), [(0, "·"), (0.001, "░"), (0.3, "▒"), (0.6, "▓"), (1, "█")]
)
def test_shade_shows_the_least_that_is_held(fraction, character):
    assert Look(None).shade(fraction) == character
