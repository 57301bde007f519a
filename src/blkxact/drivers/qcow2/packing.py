"""Room for compressed clusters: bytes, not clusters, of which several share one of the file's.

Invariants:

* Each compressed cluster holds one reference to every cluster of the file that it touches.
* Bytes are given out in order, after those that were given out last. What is given back is not
  used again before the whole cluster is free.
* As with whole clusters: counts rise before anything refers to the bytes, so a crash leaks at most.

QEMU's counterpart: ``qcow2_alloc_bytes`` and ``free_byte_offset``.
"""

from __future__ import annotations

import errno

from blkxact.enums import BlkdebugEvent
from blkxact.errors import os_error

from . import refcount_widths as widths
from .compression import max_offset
from .refcounts import Refcounts


async def allocate_bytes(refcounts: Refcounts, length: int) -> int:
    """Return where ``length`` bytes, no more than a cluster, may be written (under the lock).

    Raises ``OSError``, with nothing taken.
    """
    bits = refcounts.cluster_bits
    size = 1 << bits
    await refcounts.file.event(BlkdebugEvent.CLUSTER_ALLOC_BYTES)
    start = await _open_byte(refcounts)
    room = size - start % size if start else 0
    if room < length:
        taken = (await refcounts.allocate(1))[0].first
        if start and taken << bits == start + room:  # it goes on in the next cluster
            await _add_reference(refcounts, start >> bits, taken)
        else:
            start = taken << bits
    else:
        await _add_reference(refcounts, start >> bits)
    end = start + length
    refcounts.free_byte = end if end % size else 0
    if end - 1 > max_offset(bits):
        await free_bytes(refcounts, start, length)
        raise os_error(errno.EFBIG)
    return start


async def _open_byte(refcounts: Refcounts) -> int:
    """Return where the next bytes may go without a new cluster, or 0."""
    start = refcounts.free_byte
    if start:
        count = await refcounts.get(start >> refcounts.cluster_bits)
        if count >= widths.maximum(refcounts.order):
            return 0
    return start


async def _add_reference(refcounts: Refcounts, cluster: int, taken: int | None = None) -> None:
    """Add a reference to a cluster; on failure ``taken`` is given back."""
    try:
        await refcounts.change(cluster, 1, 1)
    except BaseException:
        if taken is not None:
            await refcounts.unallocate(taken, 1)
        raise


async def free_bytes(refcounts: Refcounts, start: int, length: int) -> None:
    """Give back bytes that nothing on disk refers to."""
    first = start >> refcounts.cluster_bits
    last = (start + length - 1) >> refcounts.cluster_bits
    await refcounts.unallocate(first, last - first + 1)
