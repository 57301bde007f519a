"""A process that copies between files, so that copying and planning do not share an interpreter.

A copy of many small pieces is a system call for each, and between two calls its thread needs the
interpreter, which the event loop uses to plan what comes next. A process has one of its own.

Invariants:

* It only makes things faster. What it does not do, because it is not ready, cannot be started or
  was killed, is done by who asked, in a thread.
* It ends with its storage, and dies with the daemon, whatever kills that. It holds descriptors,
  and with them locks, only of copies that it was given and has not done.

A request is one message of a ``SOCK_SEQPACKET`` socket: the copies as 64-bit numbers, and with them
the descriptors and the end of a pipe for the answer. The pipe's end without an answer says that the
process is no more. Requests are served in their order, so the next can wait while one is served.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from array import array
from itertools import chain

from blkxact.errors import os_error

from .copy_range import Copy
from .copy_worker import MAX_COPIES, MAX_SOURCES, READY
from .errors import CopyError

log = logging.getLogger(__name__)

_ROOT = __file__.removesuffix("/blkxact/storage/copy_process.py")
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]);"
    "from blkxact.storage.copy_worker import main; main(int(sys.argv[2]))"
)


class CopyProcess:
    """The daemon's side of the process."""

    def __init__(self) -> None:
        """Start it; raises ``OSError``. It does not outlive the thread that calls this."""
        self._ready = False
        self._process: subprocess.Popen[bytes]
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT, str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt from the terminal is the daemon's alone
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def is_ready(self) -> bool:
        """Return whether it has started and takes requests."""
        if not self._ready:
            try:
                self._ready = self._socket.recv(len(READY), socket.MSG_DONTWAIT) == READY
            except OSError:
                return False
        return self._ready

    def copy(self, target: int, copies: list[Copy]) -> bool:
        """Do the copies, or return False; raises ``CopyError``.

        Blocks; the caller chooses the thread, and several may call at a time.
        """
        sources = {source for source, _, _, _ in copies}
        if len(sources) > MAX_SOURCES or len(copies) > MAX_COPIES:
            return False
        numbers = array("q", chain([len(sources)], sources, chain.from_iterable(copies)))
        answer, end = os.pipe()
        try:
            try:
                socket.send_fds(self._socket, [numbers], [end, target, *sources])
            except OSError:
                return False
            finally:
                os.close(end)
            numbers = array("q", os.read(answer, 16))
        finally:
            os.close(answer)
        if not numbers:
            self._process.wait()  # only then are its descriptors closed, and the locks let go
            return False
        number, reading = numbers
        if number:
            raise CopyError(os_error(number), reading=bool(reading))
        return True

    def close(self) -> None:
        """End the process, which has nothing to do any more."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


class CopyProcesses:
    """Up to ``most`` processes, each started when there is use for it and shared by some files.

    The copies into one file always go to the same process.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: dict[CopyProcess, int] = {}
        """How many files each serves."""

    def take(self) -> CopyProcess | None:
        """Return a process for the copies into one file, if there can be one."""
        if len(self._files) < self._most and all(self._files.values()):
            try:
                self._files[CopyProcess()] = 0
            except OSError as error:
                log.warning("Cannot start a process that copies: %s", error.strerror)
                self._most = len(self._files)
        if not self._files:
            return None
        process = min(self._files, key=self._files.__getitem__)
        self._files[process] += 1
        return process

    def give_back(self, process: CopyProcess) -> None:
        """Take note that a file does not use its process any more."""
        self._files[process] -= 1

    def close(self) -> None:
        """End all of them; no more are started. A second call does nothing."""
        self._most = 0
        for process in self._files:
            process.close()
