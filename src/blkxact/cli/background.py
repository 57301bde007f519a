"""The process of ``serve``: going to the background, and the PID file.

QEMU's counterpart: ``os-posix.c`` (os_daemonize), ``util/oslib-posix.c`` (qemu_write_pidfile).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from .boundary import DEBUG_VARIABLE, complaint, is_internal
from .errors import CliError

_READY = b"\0"
"""What the daemon sends to its parent when clients can connect."""


class Background:
    """A double fork: the daemon has no terminal and the parent waits until clients can connect.

    Made before any thread or loop. The parent sees ``is_parent`` and calls ``wait``; the daemon
    runs inside ``reporting`` and calls ``ready``.
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
        os.setsid()
        if os.fork() > 0:
            os._exit(0)

    def wait(self) -> int:
        """Return 0 when clients can connect; else raise ``CliError`` with the daemon's error."""
        with os.fdopen(self._read_end, "rb") as pipe:
            message = pipe.read()
        os.wait()
        if message == _READY:
            return 0
        text = message.decode(errors="surrogateescape")
        raise CliError(text or "the daemon ended before it was ready")

    def ready(self, log: TextIO | None = None) -> None:
        """Let the parent exit and leave its terminal; output goes to ``log`` or nowhere.

        Unlike QEMU's, the daemon keeps its working directory, so relative names keep their meaning.
        """
        null = os.open(os.devnull, os.O_RDWR)
        output = null if log is None else log.fileno()
        for descriptor, target in ((0, null), (1, output), (2, output)):
            os.dup2(target, descriptor)
        os.close(null)
        os.write(self._write_end, _READY)
        os.close(self._write_end)
        self._write_end = -1

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Pass an error from before ``ready`` to the parent, which prints it."""
        try:
            yield
        except Exception as error:
            if self._write_end < 0 or (is_internal(error) and os.environ.get(DEBUG_VARIABLE)):
                raise
            os.write(self._write_end, complaint(error).encode(errors="surrogateescape"))
            os._exit(1)


class PidFile:
    """The process ID in a file that is locked while the process runs, and removed afterwards.

    Raises ``CliError`` when another process holds the file.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()
        self._descriptor = self._create()

    def _create(self) -> int:
        while True:
            try:
                descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise self._refused(f"Could not create '{self._path}'", error) from error
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

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            there = self._path.stat()
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
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
