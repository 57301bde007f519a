"""Servers of others: nbdkit and qemu-nbd, as processes that can be killed and started again."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from pathlib import Path
from typing import Any, Self

from .process import TIMEOUT_S

NBDKIT = ("nbdkit", "--foreground", "--exit-with-parent", "--unix")
QEMU_NBD = ("qemu-nbd", "--persistent", "--shared=10", "--socket")


class Peer:
    """A server at the Unix socket ``path``, or at a TCP port; a context manager that ends it.

    ``words``: the program up to the option that names the socket, and what comes after it.
    """

    def __init__(
        self, path: Path, program: tuple[str, ...], *words: str | Path, port: int | None = None
    ) -> None:
        self.path = path
        self.port = port
        self._command = [*program, str(path if port is None else port), *map(str, words)]
        self._log = path.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start; returns when clients can connect."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        descriptor = os.pidfd_open(self._process.pid)
        ended = False
        while not ended and not self._takes_clients():
            ended = bool(select.select([descriptor], [], [], 0.005)[0])
        os.close(descriptor)
        if ended:
            self.kill()
            raise AssertionError(self._log.read_text())

    def _takes_clients(self) -> bool:
        family = socket.AF_UNIX if self.port is None else socket.AF_INET
        place = str(self.path) if self.port is None else ("127.0.0.1", self.port)
        with socket.socket(family) as probe:
            return not probe.connect_ex(place)

    def kill(self) -> None:
        """End at once (SIGKILL)."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(TIMEOUT_S)
            self.path.unlink(missing_ok=True)

    @property
    def address(self) -> dict[str, Any]:
        """The SocketAddress."""
        if self.port is not None:
            return {"type": "inet", "host": "localhost", "port": str(self.port), "ipv4": True}
        return {"type": "unix", "path": str(self.path)}

    def uri(self, export: str = "") -> str:
        return f"nbd+unix:///{export}?socket={self.path}"


def nbdkit(directory: Path, *words: str | Path, name: str = "kit") -> Peer:
    return Peer(directory / f"{name}.sock", NBDKIT, *words)


def qemu_nbd(directory: Path, *words: str | Path, name: str = "qemu") -> Peer:
    return Peer(directory / f"{name}.sock", QEMU_NBD, *words)
