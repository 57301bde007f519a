"""Arithmetic on arrays of numbers, all at once: an array's bytes are taken for one large int.

Each number is a lane of that int, so one operation of Python is one on all of them. Invariant: no
lane overflows or becomes negative, or it would disturb its neighbour; callers see to that.
"""

from __future__ import annotations

import sys
from array import array
from typing import Final

_ORDER: Final = sys.byteorder


def shifted_down(numbers: array[int], by: int) -> array[int]:
    """Return 32-bit numbers, each without its lowest ``by`` bits."""
    keep = ((1 << 32) - 1 >> by).to_bytes(4, _ORDER) * len(numbers)
    return _array(_int(numbers) >> by & int.from_bytes(keep, _ORDER), len(numbers))


def differences(numbers: array[int], shift: int) -> array[int]:
    """Return how much each of ascending 32-bit numbers is above the one before, times 2^shift."""
    steps = _int(numbers[1:]) - _int(numbers[:-1])
    return _array(steps << shift, len(numbers) - 1)


def widened(numbers: array[int], shift: int) -> array[int]:
    """Return 32-bit numbers as such of 64 bits, times 2^shift; ``shift`` is at most 32."""
    wide = array("Q", numbers)
    lanes = _int(wide) << shift
    return array("Q", lanes.to_bytes(8 * len(wide), _ORDER))


def _int(numbers: array[int]) -> int:
    return int.from_bytes(numbers.tobytes(), _ORDER)


def _array(lanes: int, count: int) -> array[int]:
    return array("I", lanes.to_bytes(4 * count, _ORDER))
