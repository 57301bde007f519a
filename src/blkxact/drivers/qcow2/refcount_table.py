"""How large a refcount table must become, and which blocks a table behind the end needs."""

from __future__ import annotations


def grown_table(entries: int, index: int, cluster_bits: int) -> int:
    """Return the number of entries, whole clusters, with which a table holds ``index``.

    It grows by half at the least, so that repeated growth costs little.
    """
    in_cluster = 1 << (cluster_bits - 3)
    wanted = max(index + 1, entries + entries // 2)
    return -(-wanted // in_cluster) * in_cluster


def reach(first: int, size: int, per_block: int, cluster_bits: int) -> tuple[int, list[int]]:
    """Return the clusters of a table of ``size`` entries put at cluster ``first``, and the blocks.

    The blocks lie right behind the table and describe the table and themselves.
    """
    table_clusters = -(-size * 8 >> cluster_bits)
    blocks = 1
    while True:
        end = first + table_clusters + blocks
        indexes = list(range(first // per_block, (end - 1) // per_block + 1))
        if len(indexes) <= blocks:
            return table_clusters, indexes
        blocks = len(indexes)
