"""Failures that a test orders from a memory storage, which listens to its own points for them."""

from __future__ import annotations

import os
from dataclasses import dataclass


class TornWriteError(OSError):
    """A write failed and has left a part of its bytes behind."""


@dataclass(slots=True)
class Fault:
    """A failure to come.

    ``operation`` is a method of ``StorageFile`` or ``Storage``, ``None`` any. Requests that touch
    bytes ``[start, end)`` match; the first ``skip`` of them pass, the next ``times`` (``None`` is
    all) fail with ``errno``. A ``partial`` write leaves a part of its bytes behind. ``pwritev`` and
    ``copy_from`` count as the ``pread`` and ``pwrite`` they are made of.
    """

    errno: int
    operation: str | None = None
    path: str | None = None
    start: int = 0
    end: int | None = None
    skip: int = 0
    times: int | None = 1
    partial: bool = False

    def error(self) -> OSError:
        """Return what the request fails with."""
        kind = TornWriteError if self.partial else OSError
        return kind(self.errno, os.strerror(self.errno))

    def strikes(self, operation: str, path: str, offset: int, length: int) -> bool:
        """Return whether this request is to fail; counts it if it matches."""
        if self.operation not in (None, operation) or self.path not in (None, path):
            return False
        if offset + length <= self.start or (self.end is not None and offset >= self.end):
            return False
        if self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True
