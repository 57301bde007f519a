"""Standard output or error, written only as far as that does not block.

Invariants:

* While a loop is attached, nobody waits for a reader: what it does not take yet is kept, in order,
  and written when it does. Without a loop, before and after the emulator, ``write`` waits.
* With a ``limit`` what is kept is bounded. What comes then is not cut but dropped whole, and how
  much that was is reported in its place.
* The descriptor stays blocking, as other processes may share it.
* A reader that has gone is no error.

It may be written to in any thread; ``on_taken`` is called in that of the loop.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

STDOUT: Final = 1
STDERR: Final = 2

_WRITE_SIZE: Final = select.PIPE_BUF
"""Bytes that never block a pipe that is ready."""


def _nothing() -> None:
    pass


class PacedOutput:
    """One descriptor. ``notice`` returns what reports that so many writes were dropped."""

    def __init__(
        self,
        descriptor: int,
        *,
        limit: int | None = None,
        notice: Callable[[int], bytes] = lambda _dropped: b"",
        on_taken: Callable[[], None] = _nothing,
    ) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._notice = notice
        self._on_taken = on_taken
        """Called when a part of what was kept has been written, or dropped."""
        self._kept = bytearray()
        self._dropped = 0
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        """That of the loop."""
        self._watching = False
        """The loop says when more can be written."""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return len(self._kept)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the reader in the loop, whose thread calls this, from now on."""
        with self._lock:
            self._loop, self._thread = loop, threading.get_ident()

    def flush(self, patience_s: float) -> None:
        """Give the reader so many seconds for each part of what is kept; drop the rest."""
        with self._lock:
            while self._kept and self._poll.poll(1000 * patience_s):
                self._write_kept()
            self.drop()

    def detach(self, patience_s: float) -> None:
        """Leave the loop, after ``flush``."""
        with self._lock:
            self.flush(patience_s)
            self._loop = None

    def write(self, data: bytes) -> None:
        """Write now what can be written, after what is kept; keep the rest, or drop all of it."""
        with self._lock:
            rest = memoryview(data) if self._kept else self._write_some(memoryview(data))
            while rest and self._loop is None:
                self._poll.poll()
                rest = self._write_some(rest)
            if not rest:
                return
            if self._kept and self._limit is not None and self.size + len(rest) > self._limit:
                self._dropped += 1
                return
            self._kept += rest
            self._watch()

    def _watch(self) -> None:
        """Let the loop say when more can be written, if something is kept."""
        loop = self._loop
        if loop is None or self._watching or not self._kept:
            return
        if threading.get_ident() == self._thread:
            loop.add_writer(self._descriptor, self._go_on)
            self._watching = True
        else:
            loop.call_soon_threadsafe(self._watch)

    def _unwatch(self) -> None:
        if self._watching and self._loop is not None:
            self._loop.remove_writer(self._descriptor)
            self._watching = False

    def _write_some(self, view: memoryview) -> memoryview:
        """Return what is left; nothing is if the reader has gone."""
        try:
            while view and self._poll.poll(0):
                view = view[os.write(self._descriptor, view[:_WRITE_SIZE]) :]
        except OSError:
            return memoryview(b"")
        return view

    def _write_kept(self) -> None:
        with memoryview(self._kept) as view, self._write_some(view) as rest:
            written = len(view) - len(rest)
        del self._kept[:written]
        if not self._kept and self._dropped:
            self._kept += self._notice(self._dropped)
            self._dropped = 0

    def _go_on(self) -> None:
        with self._lock:
            self._write_kept()
            if not self._kept:
                self._unwatch()
        self._on_taken()

    def drop(self) -> None:
        """Forget what is kept."""
        with self._lock:
            self._kept.clear()
            self._unwatch()
