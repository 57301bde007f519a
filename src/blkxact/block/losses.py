"""What is reported on standard error when a node is closed and something could not be written.

QEMU's counterpart: ``qcow2_inactivate``. A failed flush of a format is left to what is below it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from blkxact.errors import QmpError, strerror

if TYPE_CHECKING:
    from .node import BlockNode

_log = logging.getLogger(__name__)


def report_loss(node: BlockNode, error: OSError | QmpError) -> None:
    """Report what went wrong at the end of a node, once: where it began, or what was lost."""
    if isinstance(error, QmpError):
        _log.warning("closing node '%s': %s", node.node_name, error)
    elif not node.driver.is_filter and not node.primary:
        _log.warning("closing node '%s': %s", node.node_name, strerror(error))


class Cached(Protocol):
    """An image whose tables may wait to be written."""

    @property
    def is_unwritten(self) -> bool:
        """Whether some do."""


@contextmanager
def reporting_unwritten(image: Cached) -> Iterator[None]:
    """Report an ``OSError``, which ends the block, if tables of the image were to be written."""
    unwritten = image.is_unwritten
    try:
        yield
    except OSError as error:
        if unwritten:
            for cache in ("L2 table", "refcount block"):
                _log.warning("Failed to flush the %s cache: %s", cache, strerror(error))
