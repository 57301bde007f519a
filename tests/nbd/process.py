"""A daemon as a process with exports, and QMP to it and to QEMU's."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

BLKXACT = [sys.executable, "-m", "blkxact", "serve"]
QEMU = ["qemu-storage-daemon"]
TIMEOUT_S = 60


def tool_environment() -> dict[str, str]:
    """Return an environment where nbdsh finds the system's Python, for which libnbd was made."""
    where = Path(shutil.which("nbdsh") or "/usr/bin/nbdsh").parent
    return {**os.environ, "PATH": f"{where}:{os.environ['PATH']}", "PYTHONPATH": ""}


def run(*words: str | Path, status: int = 0) -> str:
    """Run a program and return what it printed."""
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env=tool_environment(),
    )
    assert done.returncode == status, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if status else "")


class Daemon:
    """It runs in the background when the constructor returns; a context manager that ends it.

    ``words`` are options of ``serve``; the QMP socket is ``qmp``, the NBD socket ``nbd``.
    """

    def __init__(self, directory: Path, *words: str, program: list[str] = BLKXACT) -> None:
        name = Path(program[0]).name
        self.directory = directory
        self.nbd = directory / f"{name}.nbd"
        self.qmp = directory / f"{name}.qmp"
        self._pidfile = directory / f"{name}.pid"
        chardev = f"socket,id=c,path={self.qmp},server=on,wait=off"
        options = ["--chardev", chardev, "--monitor", "c"]
        command = [*program, *words, *options, "--pidfile", str(self._pidfile), "--daemonize"]
        with (directory / f"{name}.log").open("wb") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, timeout=TIMEOUT_S)
        self._pid = int(self._pidfile.read_text())
        self._socket: socket.socket | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        ended = os.pidfd_open(self._pid)
        os.kill(self._pid, signal.SIGTERM)
        assert _readable(ended), "the daemon does not end"
        os.close(ended)
        if self._socket is not None:
            self._socket.close()

    def uri(self, export: str = "disk", scheme: str = "nbd") -> str:
        return f"{scheme}+unix:///{export}?socket={self.nbd}"

    def execute(self, command: str, **arguments: Any) -> Any:
        """Return the ``return`` or the ``error`` of a command."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(TIMEOUT_S)
            self._socket.connect(str(self.qmp))
            self._lines = self._socket.makefile("rb")
            self._lines.readline()
            self.execute("qmp_capabilities")
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        message = {"execute": command, "arguments": words}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            reply = json.loads(self._lines.readline())
            if "event" in reply:
                self.events.append(reply)
            else:
                return reply.get("return", reply.get("error"))

    def hear(self, name: str) -> dict[str, Any]:
        """Return the next event of that name."""
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            self.events.append(json.loads(self._lines.readline()))


def _readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], TIMEOUT_S)[0])


def qcow2(node: str, path: Path, **more: str) -> list[str]:
    """Return the option that opens an image."""
    members = {"node-name": node, "file.driver": "file", "file.filename": str(path), **more}
    return ["--blockdev", "qcow2," + ",".join(f"{name}={more}" for name, more in members.items())]


def server(daemon_name: Path) -> list[str]:
    """Return the option that starts the NBD server."""
    return ["--nbd-server", f"addr.type=unix,addr.path={daemon_name}"]
