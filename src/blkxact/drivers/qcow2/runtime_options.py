"""The options of an open qcow2 image that a reopen can change, and what QEMU refuses of them.

Some change nothing here (``docs/differences-from-qemu.md`` lists them); they are checked all the
same, so that a mistake is reported as in QEMU.

QEMU's counterpart: ``qcow2_runtime_opts``, ``mutable_opts`` and ``read_cache_sizes`` in
``block/qcow2.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from blkxact.errors import QmpError

from .cluster_map import CACHE_BYTES as L2_CACHE_BYTES
from .layout import ENTRY_SIZE, MIN_CLUSTER_BITS, Header
from .refcount_blocks import CACHE_BYTES as REFCOUNT_CACHE_BYTES

if TYPE_CHECKING:
    from blkxact.qapi.blockdev import BlockdevOptionsQcow2

_CACHE_SIZES: Final = ("cache_size", "l2_cache_size", "l2_cache_entry_size", "refcount_cache_size")
_OVERLAP_CHECKS: Final = (
    "template",
    "main-header",
    "active-l1",
    "active-l2",
    "refcount-table",
    "refcount-block",
    "snapshot-table",
    "inactive-l1",
    "inactive-l2",
    "bitmap-directory",
)
_MEMBERS: Final = (
    "lazy_refcounts",
    "pass_discard_request",
    "pass_discard_snapshot",
    "pass_discard_other",
    "discard_no_unref",
    "overlap_check",
    *_CACHE_SIZES,
    "cache_clean_interval",
)
NAMES: Final = frozenset(
    (
        *(name.replace("_", "-") for name in _MEMBERS),
        *(f"overlap-check.{name}" for name in _OVERLAP_CHECKS),
    )
)
"""By their flat names."""

_MAX_L2_CACHE: Final = 32 << 20
"""The largest L2 cache unless an option says otherwise (DEFAULT_L2_CACHE_MAX_SIZE)."""
_MIN_REFCOUNT_CLUSTERS: Final = 4
_SMALL_ENTRY: Final = 4096
"""Bytes of a cache entry where the cache does not cover the whole disk."""
_INT_MAX: Final = (1 << 31) - 1
_UINT_MAX: Final = (1 << 32) - 1


def check_runtime_options(options: BlockdevOptionsQcow2, header: Header, length: int) -> None:
    """Raise ``QmpError`` for options that an image of ``length`` bytes cannot have."""
    if all(getattr(options, name) is None for name in _MEMBERS):
        return
    for name in (*_CACHE_SIZES, "cache_clean_interval"):
        if (getattr(options, name) or 0) < 0:
            wire = name.replace("_", "-")
            raise QmpError(f"Parameter '{wire}' expects a non-negative number below 2^64")
    _check_cache_sizes(options, header, length)
    if (options.cache_clean_interval or 0) > _UINT_MAX:
        raise QmpError("Cache clean interval too big")
    if options.lazy_refcounts and header.version < 3:
        raise QmpError(
            "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"
        )
    if options.discard_no_unref and header.version < 3:
        raise QmpError("discard-no-unref is only supported since qcow2 version 3")


def discards_file(options: BlockdevOptionsQcow2, *, discard: bool) -> bool:
    """Return whether what a request discards is discarded in the file, too.

    ``discard`` is the node's option of that name.
    """
    wanted = options.pass_discard_request
    return discard if wanted is None else bool(wanted)


class CacheSizes(NamedTuple):
    """Most bytes of tables that are kept in memory, clean ones included."""

    l2: int
    refcounts: int


def cache_sizes(options: BlockdevOptionsQcow2, header: Header, length: int) -> CacheSizes:
    """Return the sizes that options say, which were checked, or else the defaults."""
    if options.cache_size is None and options.l2_cache_size is None:
        return CacheSizes(L2_CACHE_BYTES, options.refcount_cache_size or REFCOUNT_CACHE_BYTES)
    l2, refcounts = _shares(
        options, _l2_bytes(header, length), _MIN_REFCOUNT_CLUSTERS * header.cluster_size
    )
    return CacheSizes(l2, refcounts or REFCOUNT_CACHE_BYTES)


def _l2_bytes(header: Header, length: int) -> int:
    """Return the bytes of all L2 tables of the disk."""
    cluster = header.cluster_size
    entry_bytes = ENTRY_SIZE * (2 if header.has_extended_l2 else 1)
    return -(-(-(-length // cluster) * entry_bytes) // cluster) * cluster


def _check_cache_sizes(options: BlockdevOptionsQcow2, header: Header, length: int) -> None:
    cluster = header.cluster_size
    max_l2 = _l2_bytes(header, length)
    l2_size, refcount_size = _shares(options, max_l2, _MIN_REFCOUNT_CLUSTERS * cluster)
    entry = options.l2_cache_entry_size
    if entry is None:
        entry = min(cluster, _SMALL_ENTRY) if l2_size < max_l2 else cluster
    smallest = 1 << MIN_CLUSTER_BITS
    if not smallest <= entry <= cluster or entry & (entry - 1):
        raise QmpError(
            f"L2 cache entry size must be a power of two between {smallest} "
            f"and the cluster size ({cluster})"
        )
    if l2_size // entry > _INT_MAX:
        raise QmpError("L2 cache size too big")
    if refcount_size // cluster > _INT_MAX:
        raise QmpError("Refcount cache size too big")


def _shares(options: BlockdevOptionsQcow2, max_l2: int, min_refcounts: int) -> tuple[int, int]:
    """Return the bytes of the L2 cache and of the refcount cache; raises ``QmpError``."""
    total, l2 = options.cache_size, options.l2_cache_size
    refcounts = options.refcount_cache_size
    l2_size = min(max_l2, _MAX_L2_CACHE if l2 is None else l2)
    if total is None:
        return l2_size, refcounts or 0
    if l2 is not None and refcounts is not None:
        raise QmpError(
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
        )
    if (l2 or 0) > total:
        raise QmpError("l2-cache-size may not exceed cache-size")
    if (refcounts or 0) > total:
        raise QmpError("refcount-cache-size may not exceed cache-size")
    if l2 is not None:
        return l2_size, total - l2_size
    if refcounts is None:
        refcounts = total - max_l2 if total >= max_l2 + min_refcounts else min(total, min_refcounts)
    return total - refcounts, refcounts
