"""Which metadata contexts a client's queries mean.

Invariants:

* A query that nothing answers to is passed over; it is no error.
* A query that ends in a colon lists what lies below it; it selects nothing.

Source: the NBD protocol specification, "Metadata querying"; ``docs/interop/nbd.txt`` of QEMU for
the namespace ``qemu``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

WILDCARDS: Final = ("base:", "qemu:", "qemu:dirty-bitmap:")


def listed(offered: Mapping[int, str], queries: Iterable[str]) -> list[int]:
    """Return the numbers of the contexts that LIST_META_CONTEXT shows; no query means all."""
    queries = set(queries)
    if not queries:
        return list(offered)
    wild = tuple(query for query in queries if query in WILDCARDS)
    return [
        number
        for number, name in offered.items()
        if name in queries or (wild and name.startswith(wild))
    ]


def selected(offered: Mapping[int, str], queries: Iterable[str]) -> list[int]:
    """Return the numbers of the contexts that SET_META_CONTEXT selects."""
    queries = set(queries)
    return [number for number, name in offered.items() if name in queries]
