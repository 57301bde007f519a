"""Which clusters of the file hold metadata, so that no data is ever written over them.

A damaged image may call a cluster free, or a guest's, that holds a table. Before clusters are taken
or written in place they are looked up here.

QEMU's counterpart: ``qcow2_pre_write_overlap_check``; the names are its.
"""

from __future__ import annotations

HEADER = "qcow2_header"
ACTIVE_L1 = "active L1 table"
ACTIVE_L2 = "active L2 table"
REFCOUNT_TABLE = "refcount table"
REFCOUNT_BLOCK = "refcount block"
SNAPSHOT_TABLE = "snapshot table"
INACTIVE_L1 = "inactive L1 table"
BITMAP_DIRECTORY = "bitmap directory"


class MetadataGuard:
    """The metadata clusters of one image."""

    def __init__(self, cluster_bits: int) -> None:
        self._bits = cluster_bits
        self._clusters: dict[int, str] = {0: HEADER}

    def add(self, name: str, first: int, number: int = 1) -> None:
        """Note that clusters hold metadata."""
        for cluster in range(first, first + number):
            self._clusters[cluster] = name

    def add_bytes(self, name: str, offset: int, length: int) -> None:
        """Note that the clusters of a table hold metadata."""
        if length:
            first = offset >> self._bits
            self.add(name, first, ((offset + length - 1) >> self._bits) - first + 1)

    def forget(self, first: int, number: int) -> None:
        """Note that clusters became free."""
        for cluster in self._found(first, first + number):
            del self._clusters[cluster]

    def overlap(self, first: int, end: int) -> str | None:
        """Return what lies in the clusters ``[first, end)``, if it is metadata."""
        if end - first == 1:
            return self._clusters.get(first)
        found = self._found(first, end)
        return self._clusters[found[0]] if found else None

    def _found(self, first: int, end: int) -> list[int]:
        clusters = self._clusters
        if end - first < len(clusters):
            return [cluster for cluster in range(first, end) if cluster in clusters]
        return [cluster for cluster in clusters if first <= cluster < end]
