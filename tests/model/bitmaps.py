"""What the model knows of dirty bitmaps: which granules must be set and which may be.

Sets of granules are Python integers. ``must`` is what was written since the bitmap was last in
step; ``may`` adds what the emulator is free to set (failed writes). Where both are equal, the
emulator has to agree exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .jobs import ModelJob

Chain = tuple[tuple[str, str], ...]
"""``(path, format)`` of an image and of what is put below it, from the top downwards."""


@dataclass
class Frozen:
    """A bitmap that jobs of one transaction have taken: its successor and its users."""

    enabled: bool
    must: int = 0
    may: int = 0
    jobs: list[ModelJob] = field(default_factory=list)
    missed: bool = False
    """Something was written that the successor did not note, being disabled."""


@dataclass
class ModelBitmap:
    """One named bitmap. ``base``: a chain that differs from the disk only in dirty granules."""

    node: str
    name: str
    size: int
    granularity: int
    enabled: bool = True
    persistent: bool = False
    read_only: bool = False
    inconsistent: bool = False
    must: int = 0
    may: int = 0
    frozen: Frozen | None = None
    base: Chain | None = None
    pending: ModelJob | None = None
    """The job whose target becomes the base if it ends well."""
    stored: tuple[int, int] | None = None
    """``must`` and ``may`` of what its read-only image keeps, if it was frozen at that moment."""

    def mask(self, offset: int, length: int) -> int:
        """Return the granules that a range touches."""
        if not length:
            return 0
        first = offset // self.granularity
        last = (offset + length - 1) // self.granularity
        return ((1 << (last - first + 1)) - 1) << first

    def record(self, offset: int, length: int, *, surely: bool) -> None:
        """Note a write; ``surely`` not for one that failed."""
        bits = self.mask(offset, length)
        place = self.frozen or self
        if not place.enabled:
            self.lose_base()
            if self.frozen is not None:
                self.frozen.missed = True
            return
        place.may |= bits
        if surely:
            place.must |= bits

    def ranges(self, bits: int) -> Iterator[tuple[int, int]]:
        """Yield ``(offset, length)`` of each granule in ``bits``."""
        while bits:
            low = bits & -bits
            offset = (low.bit_length() - 1) * self.granularity
            yield offset, min(self.granularity, self.size - offset)
            bits ^= low

    def convert(self, bits: int, other: ModelBitmap) -> int:
        """Return the granules of ``self`` that the granules ``bits`` of ``other`` touch."""
        if self.granularity == other.granularity:
            return bits
        found = 0
        for offset, length in other.ranges(bits):
            found |= self.mask(offset, length)
        return found

    def clear(self) -> None:
        self.must = self.may = 0
        self.lose_base()

    def lose_base(self) -> None:
        """Something may differ from the base that no bit tells of."""
        self.base = self.pending = None

    def merge(self, source: ModelBitmap) -> None:
        self.must |= self.convert(source.must, source)
        self.may |= self.convert(source.may, source)

    def freeze(self, job: ModelJob) -> None:
        if self.frozen is None:
            self.frozen = Frozen(self.enabled)
        self.frozen.jobs.append(job)

    def image_becomes_read_only(self) -> None:
        """A snapshot was taken: what is in the image now is what a restart finds."""
        if self.persistent and self.frozen is not None:
            self.stored = self.must | self.frozen.must, self.may | self.frozen.may

    def abdicate(self) -> None:
        assert self.frozen is not None
        self.must, self.may = self.frozen.must, self.frozen.may
        self.frozen = None

    def reclaim(self) -> None:
        assert self.frozen is not None
        self.must |= self.frozen.must
        self.may |= self.frozen.may
        self.frozen = None


def actual_bits(bitmap) -> int:
    """Return the set granules of one of the emulator's bitmaps."""
    found = 0
    for offset, length in bitmap.runs():
        first = offset // bitmap.granularity
        last = (offset + length - 1) // bitmap.granularity
        found |= ((1 << (last - first + 1)) - 1) << first
    return found
