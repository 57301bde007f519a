"""The process's own input and output as a transport of asyncio.

Invariants:

* A reader that is slow, or waits itself for its next request to be taken, does not hold up the
  process: what it does not take yet is kept, and the protocol is asked to pause when that is much.
  What other parts of the process print (``write``) stands in between in the order of the calls.
* Reading has a thread of its own, because a file or a pipe alike may be the input; at its end the
  protocol gets nothing more and is not closed: it may still have events to send.

QEMU's counterpart: ``chardev/char-stdio.c``.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, Final

from .paced_output import STDOUT, PacedOutput

_READ_SIZE: Final = 4096
_HIGH_WATER: Final = 64 << 10
_INPUT: Final = 0


class StdioTransport(asyncio.Transport):
    """Descriptors 0 and 1; made by ``open_stdio``."""

    def __init__(self, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._output = PacedOutput(STDOUT, on_taken=self._on_taken)
        self._output.attach(self._loop)
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._paused = False
        """Whether the protocol was asked to pause."""
        self._closing = False
        self._may_read = threading.Event()
        self._may_read.set()

    def start(self) -> None:
        """Connect the protocol and begin to read."""
        self._protocol.connection_made(self)
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def _read(self) -> None:
        while True:
            self._may_read.wait()
            try:
                data = os.read(_INPUT, _READ_SIZE)
            except OSError:
                return
            if not data or self._closing:
                return
            # Wait until it is taken: the protocol may pause reading then.
            taken = threading.Event()
            try:
                self._loop.call_soon_threadsafe(self._take, data, taken)
            except RuntimeError:  # the loop has ended
                return
            taken.wait()

    def _take(self, data: bytes, taken: threading.Event) -> None:
        if not self._closing:
            buffer = memoryview(self._protocol.get_buffer(len(data)))
            buffer[: len(data)] = data
            self._protocol.buffer_updated(len(data))
        taken.set()

    def pause_reading(self) -> None:
        """Read no more after what is being read."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Go on reading."""
        self._may_read.set()

    def write(self, data: Any) -> None:
        """Write ``data``, or keep what the reader does not take yet."""
        self._output.write(bytes(data))
        if self._output.size > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _on_taken(self) -> None:
        if self._closing:
            if not self._output.size:
                self._protocol.connection_lost(None)
        elif self._paused and self._output.size <= self._low:
            self._paused = False
            self._protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set at how many bytes the protocol pauses, and goes on."""
        self._high = _HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the reader has not taken yet."""
        return self._output.size

    def is_closing(self) -> bool:
        """Return whether ``close`` was called."""
        return self._closing

    def close(self) -> None:
        """End the connection when all is written; the descriptors stay open."""
        if not self._closing:
            self._closing = True
            if not self._output.size:
                self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """End the connection, without what is not written yet."""
        lost = not self._closing or self._output.size
        self._closing = True
        self._output.drop()
        if lost:
            self._loop.call_soon(self._protocol.connection_lost, None)


def open_stdio(protocol: asyncio.BufferedProtocol) -> StdioTransport:
    """Serve ``protocol`` on standard input and output."""
    transport = StdioTransport(protocol)
    transport.start()
    return transport
