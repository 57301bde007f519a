"""Hostile images as recipes: a seed, and a few changes of its bytes.

A recipe is as short as what is wrong with its image, and every string of bytes is one. So a fuzzer
that knows nothing of qcow2 changes one field to a telling value in each step, and what it finds is
a few bytes in ``tests/fuzz/corpus``.

    byte 0         which seed (new ones come last, so that old recipes keep theirs)
    then records   place (2 bytes: which place of the room), operation, operand (8 bytes)
"""

from __future__ import annotations

import random
import struct

from .seeds import Seed, seeds

RECORD = struct.Struct(">HB8s")
MAX_RECORDS = 8
SEED_SLOTS = 32
MAX_RECIPE = 1 + MAX_RECORDS * RECORD.size
"""Bytes of a recipe that are looked at."""

TELLING = (
    0, 1, 2, 7, 8, 9, 16, 64, 511, 512, 0x200, 0x1000, 0x10000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF,
    1 << 32, 1 << 40, 1 << 55, (1 << 56) - 512, 1 << 62, 1 << 63, (1 << 63) | 512,
    (1 << 63) | 0x10000, (1 << 63) - 1, (1 << 64) - 1, (1 << 64) - 512,
)  # fmt: skip
"""Values at which something changes in a field of one width or another."""
_WIDTHS = (1, 2, 4, 8)


def build(recipe: bytes, room: str = "all") -> tuple[Seed, bytes]:
    """Return the seed of a recipe and the image that it describes."""
    choice = recipe[0] if recipe else 0
    seed = seeds()[choice % SEED_SLOTS % len(seeds())]
    places = seed.places(room)
    image = bytearray(seed.data)
    for record in range(1, min(len(recipe), MAX_RECIPE), RECORD.size):
        piece = recipe[record : record + RECORD.size].ljust(RECORD.size, b"\0")
        image = _apply(image, places, *RECORD.unpack(piece))
    return seed, bytes(image)


def _apply(
    image: bytearray, places: tuple[int, ...], which: int, operation: int, operand: bytes
) -> bytearray:
    place = places[which % len(places)]
    width = _WIDTHS[operation >> 6]
    old = int.from_bytes(image[place : place + width], "big")
    kind = operation % 8
    if kind == 7:
        return image[: int.from_bytes(operand[:4], "big") % (len(image) + 1)]
    if kind == 0:
        value = int.from_bytes(operand[:width], "big")
    elif kind == 1:
        value = TELLING[operand[0] % len(TELLING)]
    elif kind == 2:
        value = old + int.from_bytes(operand[:1], "big", signed=True)
    elif kind == 3:
        value = old ^ 1 << operand[0] % (8 * width)
    elif kind == 4:
        source = places[operand[0] % len(places)]
        value = int.from_bytes(image[source : source + width], "big")
    elif kind == 5:
        value = old << operand[0] % 24
    else:  # a field may point anywhere in the file
        value = (1 << 63 if operand[0] & 1 else 0) | operand[1] << 9
    image[place : place + width] = (value % (1 << 8 * width)).to_bytes(width, "big")
    return image


def random_recipe(source: random.Random) -> bytes:
    """Return a recipe with a few changes."""
    parts = [bytes([source.randrange(256)])]
    for _ in range(source.choice((1, 1, 2, 3, 5))):
        operand = source.randbytes(8)
        parts.append(RECORD.pack(source.randrange(1 << 16), source.randrange(256), operand))
    return b"".join(parts)
