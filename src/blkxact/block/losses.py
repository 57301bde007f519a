"""What is reported on standard error when a node is closed and something could not be written.

QEMU's counterpart: ``qcow2_inactivate``. A failed flush of a format is left to what is below it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from blkxact.errors import QmpError, strerror

_log = logging.getLogger(__name__)


def report_loss(name: str, error: OSError | QmpError, *, is_bottom: bool) -> None:
    """Report what went wrong at the end of a node, once: where it began, or what was lost."""
    if isinstance(error, QmpError):
        _log.warning("closing node '%s': %s", name, error)
    elif is_bottom:
        _log.warning("closing node '%s': %s", name, strerror(error))


@contextmanager
def reporting_unwritten() -> Iterator[None]:
    """Report an ``OSError``, which ends the block, of writing back an image's tables."""
    try:
        yield
    except OSError as error:
        for cache in ("L2 table", "refcount block"):
            _log.warning("Failed to flush the %s cache: %s", cache, strerror(error))
