"""The process of a daemon: going to the background, the PID file.

QEMU's counterpart: ``os-posix.c`` (os_daemonize), ``util/oslib-posix.c``
(qemu_write_pidfile).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TextIO

from .errors import CliError

_READY = b"\0"
"""What the daemon sends to its parent when clients can connect."""
_REFUSED = b"\1"
"""What it sends when it could not start, and has said why."""


class Background:
    """A double fork: the daemon has no terminal and the parent waits until clients can connect.

    Made before any thread or loop. The parent sees ``is_parent`` and calls ``wait``; the daemon
    runs inside ``reporting`` and calls ``ready``. Until then it has the parent's standard error,
    where it reports what is wrong itself.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._read_end, self._write_end = os.pipe()
        self.is_parent = os.fork() > 0
        if self.is_parent:
            os.close(self._write_end)
            return
        os.close(self._read_end)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # a new root may have none
        os.setsid()
        if os.fork() > 0:
            os._exit(0)

    def wait(self) -> bool:
        """Return whether clients can connect. Raises ``CliError`` if the daemon ended silently."""
        with os.fdopen(self._read_end, "rb") as pipe:
            message = pipe.read()
        os.wait()
        if message not in (_READY, _REFUSED):
            raise CliError("the daemon ended before it was ready")
        return message == _READY

    def ready(self, log: TextIO | None = None) -> None:
        """Let the parent exit and leave its terminal; output goes to ``log`` or nowhere.

        Unlike QEMU's, the daemon keeps its working directory, so relative names keep their meaning.
        """
        output = self._null if log is None else log.fileno()
        for descriptor, target in ((0, self._null), (1, output), (2, output)):
            os.dup2(target, descriptor)
        os.close(self._null)
        self._send(_READY)

    def _send(self, message: bytes) -> None:
        os.write(self._write_end, message)
        os.close(self._write_end)
        self._write_end = -1

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Let the parent fail, once an error from before ``ready`` has been printed."""
        try:
            yield
        except Exception:
            if self._write_end >= 0:
                self._send(_REFUSED)
            raise


class PidFile:
    """The process ID in a file that is locked while the process runs, and removed afterwards.

    Raises ``CliError`` when another process holds the file.
    """

    def __init__(self, path: str) -> None:
        self._shown = path
        self._path = os.path.abspath(path)  # noqa: PTH100 - pathlib takes 5 ms of every start
        self._descriptor = self._create()

    def _create(self) -> int:
        descriptor = self._create_whole()
        if descriptor is not None:
            return descriptor
        while True:
            try:
                descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise self._refused(f"Could not create '{self._shown}'", error) from error
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A file that went away between open and lock was another daemon's: try again.
                if self._is_at_path(descriptor):
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                    return descriptor
            except OSError as error:
                os.close(descriptor)
                raise self._refused("Cannot lock pid file", error) from error
            os.close(descriptor)

    def _create_whole(self) -> int | None:
        """Create the file with its content, for who waits until it is there; None if one is."""
        descriptor = None
        folder = os.path.dirname(self._path)  # noqa: PTH120
        try:
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            os.link(f"/proc/self/fd/{descriptor}", self._path, follow_symlinks=True)
        except OSError:
            if descriptor is not None:
                os.close(descriptor)
            return None
        return descriptor

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            there = os.stat(self._path)  # noqa: PTH116
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))

    @staticmethod
    def _refused(what: str, error: OSError) -> CliError:
        return CliError(f"cannot create PID file: {what}: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # noqa: PTH108
        os.close(self._descriptor)
