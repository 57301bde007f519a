"""The bytes of a file in memory: what was never written takes no room.

Pages are immutable, so a copy of a file shares them with the original.
"""

from __future__ import annotations

from pyroaring import BitMap64

from blkxact.dirty import roaring
from blkxact.storage.api import Buffer

PAGE_SHIFT = 12
PAGE = 1 << PAGE_SHIFT
_ZERO_PAGE = bytes(PAGE)


class SparseBytes:
    """``size`` bytes; those of pages that are not there are zeroes."""

    def __init__(self) -> None:
        self.size = 0
        self._pages: dict[int, bytes] = {}
        self._present = BitMap64()
        """The numbers of the pages above: what a map shows as data."""
        self._allocated = BitMap64()
        """Those, and what was zeroed without being unmapped."""

    def copy(self) -> SparseBytes:
        """Return a copy that shares the pages."""
        other = SparseBytes()
        other.size = self.size
        other._pages = self._pages.copy()
        other._present = self._present.copy()
        other._allocated = self._allocated.copy()
        return other

    def allocated_size(self) -> int:
        """Return the bytes that the file takes."""
        return len(self._allocated) << PAGE_SHIFT

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes; beyond the end they are zeroes."""
        first, last = offset >> PAGE_SHIFT, (offset + length - 1) >> PAGE_SHIFT
        parts = [self._pages.get(page, _ZERO_PAGE) for page in range(first, last + 1)]
        start = offset - (first << PAGE_SHIFT)
        if len(parts) == 1:
            return parts[0][start : start + length]
        return b"".join(parts)[start : start + length]

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        if not view:
            return
        end = offset + len(view)
        self.size = max(self.size, end)
        first, last = offset >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT
        for page in range(first, last + 1):
            start = page << PAGE_SHIFT
            low, high = max(offset, start), min(end, start + PAGE)
            part = bytes(view[low - offset : high - offset])
            if len(part) < PAGE:
                old = self._pages.get(page, _ZERO_PAGE)
                part = old[: low - start] + part + old[high - start :]
            self._pages[page] = _ZERO_PAGE if part == _ZERO_PAGE else part
        self._present.add_range(first, last + 1)
        self._allocated.add_range(first, last + 1)

    def zero(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range zeroes, growing the file; it stays allocated unless ``unmap``."""
        if not length:
            return
        end = offset + length
        self.size = max(self.size, end)
        first, stop = offset >> PAGE_SHIFT, -(-end >> PAGE_SHIFT)
        for page in {first, stop - 1}:
            self._blank(page, offset, end)
        whole_first, whole_stop = -(-offset >> PAGE_SHIFT), end >> PAGE_SHIFT
        if whole_first < whole_stop:
            self._drop(whole_first, whole_stop)
        if not unmap:
            self._allocated.add_range(first, stop)

    def punch(self, offset: int, length: int) -> None:
        """Make a hole; the file does not grow."""
        length = min(length, self.size - offset)
        if length > 0:
            self.zero(offset, length, unmap=True)

    def truncate(self, size: int) -> None:
        """Set the size; a grown part is a hole."""
        if size < self.size:
            page = size >> PAGE_SHIFT
            self._blank(page, size, (page + 1) << PAGE_SHIFT)
            self._drop(-(-size >> PAGE_SHIFT), -(-self.size >> PAGE_SHIFT))
        self.size = size

    def map(self, offset: int, length: int) -> list[tuple[int, int, bool]]:
        """Return ``(offset, length, is_data)`` runs that cover the range in order."""
        end = offset + length
        runs: list[tuple[int, int, bool]] = []
        position = offset
        aligned = offset >> PAGE_SHIFT << PAGE_SHIFT
        for start, count in roaring.runs(
            self._present, PAGE_SHIFT, aligned, max(aligned, min(end, self.size))
        ):
            low, high = max(start, offset), start + count
            if low >= high:
                continue
            if low > position:
                runs.append((position, low - position, False))
            runs.append((low, high - low, True))
            position = high
        if position < end:
            runs.append((position, end - position, False))
        return runs

    def _blank(self, page: int, start: int, end: int) -> None:
        """Zero the part of one page that lies in ``[start, end)``."""
        old = self._pages.get(page)
        if old is not None:
            base = page << PAGE_SHIFT
            low, high = max(start - base, 0), min(end - base, PAGE)
            self._pages[page] = old[:low] + bytes(high - low) + old[high:]

    def _drop(self, first: int, stop: int) -> None:
        """Forget whole pages."""
        if first >= stop:
            return
        for page in self._present & BitMap64(range(first, stop)):
            del self._pages[page]
        self._present.remove_range(first, stop)
        self._allocated.remove_range(first, stop)
