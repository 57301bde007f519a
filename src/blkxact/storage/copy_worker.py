"""The program of a ``CopyProcess``: copies what its parent asks for, until that is gone.

Invariant: it starts fast, so this file imports little.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
from array import array

from .copy_range import RangeCopier
from .errors import CopyError
from .libc import die_with_parent, set_process_name

MAX_COPIES = 4096
"""Most copies of one request: the system bounds the length of a message."""
MAX_SOURCES = 16
MESSAGE_BYTES = 8 * (1 + MAX_SOURCES + 4 * MAX_COPIES)
READY = b"ready"


def main(parent: int) -> None:
    """Serve requests from the socket that is standard input until ``parent`` is gone."""
    set_process_name(b"blkxact-copy")
    die_with_parent(signal.SIGKILL, parent)
    inbox = socket.socket(fileno=sys.stdin.fileno())
    with contextlib.suppress(ConnectionError):  # it is gone, with what it did not read
        inbox.send(READY)
        while _serve(inbox):
            pass


def _serve(inbox: socket.socket) -> bool:
    """Serve one request; return False if there are no more."""
    message, descriptors, _, _ = socket.recv_fds(inbox, MESSAGE_BYTES, 2 + MAX_SOURCES)
    if not message:
        return False
    answer, *files = descriptors
    done = _copy(array("q", message), files)
    # Whoever has the answer may close the files: nobody holds their locks any more.
    for fd in files:
        os.close(fd)
    os.write(answer, done.tobytes())
    os.close(answer)
    return True


def _copy(numbers: array[int], files: list[int]) -> array[int]:
    """Do the copies of a request; return the errno (0: none) and whether it was reading."""
    target, *sources = files
    first = 1 + numbers[0]
    ours = dict(zip(numbers[1:first], sources, strict=True))
    words = iter(numbers[first:])
    copies = zip(words, words, words, words, strict=True)
    try:
        RangeCopier().copy_all(target, [(ours[copy[0]], *copy[1:]) for copy in copies])
    except CopyError as error:
        return array("q", (error.errno or errno.EIO, error.reading))
    return array("q", (0, 0))
