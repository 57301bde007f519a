"""A daemon as a process: what hostile clients leave in its memory, and what is left for others."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 60
MIB = 1 << 20
HEAD_ROOM = 24 * MIB
"""What may stay of hundreds of MiB."""


class Daemon:
    """``serve`` with a node ``disk`` of 64 MiB, exported by NBD."""

    def __init__(self, directory: Path, max_files: int | None = None) -> None:
        self.directory = directory
        (directory / "disk.img").write_bytes(b"x" * 32 * MIB)
        self.qmp = str(directory / "qmp")
        self.nbd = str(directory / "nbd")

        def limit() -> None:
            if max_files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))

        self.process = subprocess.Popen(
            [sys.executable, "-m", "blkxact", "serve", "--qmp", "qmp", "--pidfile", "pid",
             "--blockdev", "raw,node-name=disk,file.driver=file,file.filename=disk.img",
             "--nbd-server", "addr.type=unix,addr.path=nbd",
             "--export", "nbd,id=e,node-name=disk,writable=on"],
            cwd=directory, stderr=subprocess.PIPE, text=True, preexec_fn=limit,  # noqa: PLW1509 - a limit of the child's
        )  # fmt: skip
        self.until((directory / "pid").exists)
        self.sockets: list[socket.socket] = []

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert self.process.poll() is None
            assert time.monotonic() < end

    def connect(self, path: str) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(LIMIT_S)
        connected.connect(path)
        self.sockets.append(connected)
        return connected

    @property
    def memory(self) -> int:
        """The resident set, in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def leave(self) -> None:
        while self.sockets:
            self.sockets.pop().close()

    def end(self) -> str:
        """End the daemon; return what it wrote."""
        self.leave()
        self.process.terminate()
        _, text = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 0
        return text


class Monitor:
    def __init__(self, daemon: Daemon) -> None:
        self._socket = daemon.connect(daemon.qmp)
        self._lines = self._socket.makefile("rb")
        self.read()
        self.execute("qmp_capabilities")

    def read(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._lines.readline())
        return message

    def execute(self, command: str, **arguments: Any) -> Any:
        members = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": command, "arguments": members}).encode())
        while "event" in (reply := self.read()):
            pass
        return reply["return"]

    def wait(self, event: str) -> dict[str, Any]:
        while (message := self.read()).get("event") != event:
            pass
        data: dict[str, Any] = message["data"]
        return data


@pytest.fixture
def started() -> Iterator[list[Daemon]]:
    daemons: list[Daemon] = []
    yield daemons
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.communicate()


def send_for_ever(connected: socket.socket, data: bytes) -> None:
    """Send until the daemon takes no more or hangs up."""
    connected.settimeout(0.5)
    with contextlib.suppress(OSError):
        connected.sendall(data)


def test_memory_that_departed_qmp_clients_took_is_given_back(
    image_dir: Path, started: list[Daemon]
) -> None:
    daemon = Daemon(image_dir)
    started.append(daemon)
    Monitor(daemon)
    before = daemon.memory
    for number in range(20):
        hostile = daemon.connect(daemon.qmp)
        kind = number % 3
        data = [b'"' + b"x" * 20 * MIB, b"1," * MIB + b'"\\u0041"', b"{'a':1}," * 100_000][kind]
        send_for_ever(hostile, b'{"execute": "query-name", "id": [' + data)
    daemon.leave()
    daemon.until(lambda: daemon.memory < before + HEAD_ROOM)
    assert Monitor(daemon).execute("query-status")["running"]
    daemon.end()


def test_memory_that_departed_nbd_clients_took_is_given_back(
    image_dir: Path, started: list[Daemon]
) -> None:
    daemon = Daemon(image_dir)
    started.append(daemon)
    Monitor(daemon)
    before = daemon.memory
    name = b"disk"
    hello = struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(name)) + name
    reads = b"".join(struct.pack(">IHHQQI", 0x25609513, 0, 0, n, 0, 8 * MIB) for n in range(16))
    for _ in range(12):
        daemon.connect(daemon.nbd).sendall(hello + reads)
    daemon.until(lambda: daemon.memory > before + 64 * MIB)
    daemon.leave()
    daemon.until(lambda: daemon.memory < before + HEAD_ROOM)
    assert Monitor(daemon).execute("query-status")["running"]
    daemon.end()


def test_clients_without_number_leave_descriptors_for_a_backup(
    image_dir: Path, started: list[Daemon]
) -> None:
    daemon = Daemon(image_dir, max_files=64)
    started.append(daemon)
    (image_dir / "target.img").write_bytes(bytes(32 * MIB))
    monitor = Monitor(daemon)
    for path in (daemon.qmp, daemon.nbd):
        for _ in range(70):
            daemon.connect(path)
    daemon.until(lambda: daemon.files >= 48)
    file = {"driver": "file", "filename": "target.img"}
    monitor.execute("blockdev-add", driver="raw", node_name="target", file=file)
    monitor.execute("blockdev-backup", job_id="j", device="disk", target="target", sync="full")
    assert "error" not in monitor.wait("BLOCK_JOB_COMPLETED")
    assert (image_dir / "target.img").read_bytes() == (image_dir / "disk.img").read_bytes()
    text = daemon.end()
    assert text.count("too few file descriptors are left") <= 2
    assert "Traceback" not in text


def test_first_command_needs_no_file(image_dir: Path, started: list[Daemon]) -> None:
    daemon = Daemon(image_dir, max_files=64)
    started.append(daemon)
    daemon.connect(daemon.qmp)  # it makes the loop open what it needs
    monitor = Monitor(daemon)
    used = daemon.files
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (used, 64))
    monitor.execute("query-name")
    monitor.execute("query-qmp-schema")
    monitor.execute("human-monitor-command", command_line="info block")
    monitor.execute("block-dirty-bitmap-add", node="disk", name="b")
    assert "Traceback" not in daemon.end()
