"""A file descriptor that is kept for imports, for when all others are in use.

Modules are loaded when they are first needed, which may be when clients or jobs have taken every
descriptor that the process may have.

Invariant: the spare descriptor is given up only while none is left, and taken back in the next turn
of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Self

from blkxact.storage.acceptor import spare_descriptor


class ImportReserve:
    """Keeps the descriptor while the context is entered; asked by Python before each import."""

    def __init__(self) -> None:
        self._spare: int | None = None

    def __enter__(self) -> Self:
        self._take()
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.meta_path.remove(self)
        self._release()

    def find_spec(self, *_import: object) -> None:
        """Give the spare descriptor up if it is the only one that the import could have."""
        if self._spare is None:
            return
        try:
            os.close(spare_descriptor())
        except OSError:
            self._release()
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            self._spare = spare_descriptor()

    def _release(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
