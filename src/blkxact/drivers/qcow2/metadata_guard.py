"""Which clusters of the file hold metadata, so that no data is ever written over them.

A damaged image may call a cluster free, or a guest's, that holds a table. Before clusters are taken
or written in place they are looked up here. What a hostile image calls a long table costs no more
than a short one.

QEMU's counterpart: ``qcow2_pre_write_overlap_check``; the names are its.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from .layout import cluster_range
from .metadata_file import MetadataFile

HEADER = "qcow2_header"
ACTIVE_L1 = "active L1 table"
ACTIVE_L2 = "active L2 table"
REFCOUNT_TABLE = "refcount table"
REFCOUNT_BLOCK = "refcount block"
SNAPSHOT_TABLE = "snapshot table"
INACTIVE_L1 = "inactive L1 table"
BITMAP_DIRECTORY = "bitmap directory"


SINGLE = 8
"""Tables of at most so many clusters are kept cluster by cluster, longer ones as spans."""


class MetadataGuard:
    """The metadata clusters of one image."""

    def __init__(self, cluster_bits: int) -> None:
        self._bits = cluster_bits
        self._clusters: dict[int, str] = {0: HEADER}
        self._spans = _Spans()

    def add(self, name: str, first: int, number: int = 1) -> None:
        """Note that clusters hold metadata."""
        if number > SINGLE:
            self._spans.put(first, first + number, name)
            return
        for cluster in range(first, first + number):
            self._clusters[cluster] = name

    def add_bytes(self, name: str, offset: int, length: int) -> None:
        """Note that the clusters of a table hold metadata."""
        if length:
            self.add(name, *cluster_range(offset, length, self._bits))

    def forget(self, first: int, number: int) -> None:
        """Note that clusters became free."""
        for cluster in self._found(first, first + number):
            del self._clusters[cluster]
        if self._spans.starts:
            self._spans.put(first, first + number, None)

    def overlap(self, first: int, end: int) -> str | None:
        """Return what lies in the clusters ``[first, end)``, if it is metadata."""
        name: str | None = None
        if end - first == 1:
            name = self._clusters.get(first)
        elif found := self._found(first, end):
            name = self._clusters[found[0]]
        return name or (self._spans.first(first, end) if self._spans.starts else None)

    async def check(self, file: MetadataFile, first: int, end: int) -> None:
        """Raise ``OSError(EIO)``, and mark the image, if metadata lies in ``[first, end)``."""
        name = self.overlap(first, end)
        if name is not None:
            raise await file.corruption(
                f"Preventing invalid write on metadata (overlaps with {name})",
                first << self._bits,
                (end - first) << self._bits,
            )

    def _found(self, first: int, end: int) -> list[int]:
        clusters = self._clusters
        if end - first < len(clusters):
            return [cluster for cluster in range(first, end) if cluster in clusters]
        return [cluster for cluster in clusters if first <= cluster < end]


class _Spans:
    """Names of long ranges, which do not overlap: the latest goes before."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self._ends: list[int] = []
        self._names: list[str] = []

    def first(self, start: int, end: int) -> str | None:
        """Return the name of the first span that touches a range."""
        at = bisect_right(self._ends, start)
        return self._names[at] if at < len(self.starts) and self.starts[at] < end else None

    def put(self, start: int, end: int, name: str | None) -> None:
        """Give a range a name, or take what it has."""
        low, high = bisect_right(self._ends, start), bisect_left(self.starts, end)
        new: list[tuple[int, int, str]] = []
        if low < high and self.starts[low] < start:
            new.append((self.starts[low], start, self._names[low]))
        if name is not None:
            new.append((start, end, name))
        if low < high and self._ends[high - 1] > end:
            new.append((end, self._ends[high - 1], self._names[high - 1]))
        self.starts[low:high] = [span[0] for span in new]
        self._ends[low:high] = [span[1] for span in new]
        self._names[low:high] = [span[2] for span in new]
