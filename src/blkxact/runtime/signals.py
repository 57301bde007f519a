"""Signals as calls on the event loop.

``loop.add_signal_handler`` does the same. It loads ``inspect`` to check and to print what it is
given, which takes 4 ms of every start.

Invariant: a signal is not missed, whenever it arrives: the system's handler writes it to a socket
that the loop reads.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

_MANY_BYTES = 4096


@contextmanager
def handled(
    loop: asyncio.AbstractEventLoop, numbers: Sequence[int], handle: Callable[[int], None]
) -> Iterator[None]:
    """Have the loop call ``handle`` with each of these signals that arrives in the context.

    It is for the main thread. What was set before is restored at the end. Enter it before the loop
    runs: then ``asyncio.Runner`` sets no handler for SIGINT of its own.
    """
    with ExitStack() as stack:
        receiver, sender = map(stack.enter_context, socket.socketpair())
        receiver.setblocking(False)
        sender.setblocking(False)

        def read() -> None:
            with suppress(BlockingIOError):
                for number in receiver.recv(_MANY_BYTES):  # a byte for each
                    if number in numbers:
                        handle(number)

        loop.add_reader(receiver, read)
        stack.callback(loop.remove_reader, receiver)
        before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, before)
        for number in numbers:
            stack.callback(signal.signal, number, signal.signal(number, _do_nothing))
            signal.siginterrupt(number, False)  # other threads need not know
        yield


def _do_nothing(_number: int, _frame: object) -> None:
    """Be there: a signal that is left to the system is not written to the socket."""
