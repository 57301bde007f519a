"""The process's own input and output as a transport of asyncio.

Invariants:

* Writing is done when ``write`` returns: what other parts of the process print stands in between
  in the order in which it was printed. A reader that is slow holds up the process, as in QEMU.
* Reading has a thread of its own, because a file or a pipe alike may be the input; at its end the
  protocol gets nothing more and is not closed: it may still have events to send.

QEMU's counterpart: ``chardev/char-stdio.c``.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, Final

_READ_SIZE: Final = 4096
_INPUT: Final = 0
_OUTPUT: Final = 1
STDERR: Final = 2


class StdioTransport(asyncio.Transport):
    """Descriptors 0 and 1; made by ``open_stdio``."""

    def __init__(self, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
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
        """Write all of ``data`` before returning."""
        write_output(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        """Return 0: nothing is buffered."""
        return 0

    def is_closing(self) -> bool:
        """Return whether ``close`` was called."""
        return self._closing

    def close(self) -> None:
        """End the connection; the descriptors stay open."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """End the connection."""
        self.close()


def write_output(data: bytes, descriptor: int = _OUTPUT) -> None:
    """Write all of ``data`` now, to standard output or ``STDERR``; a reader may have gone."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        return


def open_stdio(protocol: asyncio.BufferedProtocol) -> None:
    """Serve ``protocol`` on standard input and output."""
    StdioTransport(protocol).start()
