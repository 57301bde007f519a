"""A daemon whose standard error is a pipe that nobody reads, or reads late."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from cli_runs import TIMEOUT
from programs import SYSTEM, connected

CAPACITY = 4096
FILLER = b"." * CAPACITY
DISK = {"driver": "null-co", "node-name": "n", "size": 1 << 20}


class Started:
    """A daemon whose standard error is full from the start."""

    def __init__(self, *words: str | Path) -> None:
        self._read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, CAPACITY)
        os.write(write_end, FILLER)
        self.process = subprocess.Popen([*map(str, words)], stderr=write_end)
        os.close(write_end)

    def read(self) -> None:
        """Begin to read."""
        self._reader = threading.Thread(target=self._read_all)
        self._reader.start()

    def _read_all(self) -> None:
        with os.fdopen(self._read_end, "rb") as pipe:
            self._data = pipe.read()

    def reported(self, status: int) -> str:
        """Return all that came until the daemon has ended with ``status``."""
        assert self.process.wait(TIMEOUT) == status
        self._reader.join(TIMEOUT)
        assert self._data.startswith(FILLER)
        return self._data.removeprefix(FILLER).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT)
        if not hasattr(self, "_reader"):
            os.close(self._read_end)


class Monitor:
    """A client, which is answered though nobody reads what is reported."""

    def __init__(self, path: Path) -> None:
        self._socket = connected(path)
        self._socket.settimeout(TIMEOUT)
        self._lines = self._socket.makefile("rb")
        assert b"QMP" in self._lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        message = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(message).encode())
        while "event" in (reply := json.loads(self._lines.readline())):
            pass
        return reply.get("return", reply)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@contextlib.contextmanager
def monitor(path: Path) -> Iterator[Monitor]:
    client = Monitor(path)
    yield client
    client.close()


def serve(*words: str | Path) -> Started:
    return Started(sys.executable, "-m", "blkxact", "serve", *words)


def work(client: Monitor, count: int) -> None:
    """Let the daemon report ``count`` transactions."""
    for number in range(count):
        action = {"type": "block-dirty-bitmap-add", "data": {"node": "n", "name": f"b{number}"}}
        assert client.execute("transaction", actions=[action]) == {}


def test_monitors_are_served_and_all_is_reported_to_who_reads_late(image_dir: Path) -> None:
    path = image_dir / "qmp"
    with serve("-v", "--qmp", path) as daemon:
        with monitor(path) as client, monitor(path) as other:
            assert client.execute("blockdev-add", **DISK) == {}
            work(client, 50)
            assert len(other.execute("query-named-block-nodes")[0]["dirty-bitmaps"]) == 50
            daemon.read()
            other.execute("quit")
        lines = daemon.reported(0).splitlines()
    assert f"listening for QMP on unix:{path}" in lines[0]
    prepared = [line.rpartition(" ")[2] for line in lines if ": prepare " in line]
    assert prepared == [f"b{number}" for number in range(50)]
    assert lines[-1].endswith("shutting down: host-qmp-quit")


def test_daemon_that_nobody_reads_ends_when_it_is_asked(image_dir: Path) -> None:
    path = image_dir / "qmp"
    with serve("-v", "--qmp", path) as daemon:
        with monitor(path) as client:
            assert client.execute("blockdev-add", **DISK) == {}
            work(client, 20)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(TIMEOUT) == 0


def test_guest_errors_and_the_log_of_a_test_hold_up_nobody(image_dir: Path) -> None:
    path, qtest = image_dir / "qmp", image_dir / "qtest"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(qtest))
        listener.listen()
        words = ["-M", "none", "-nodefaults", "-display", "none", "-accel", "qtest"]
        words += ["-qtest", f"unix:{qtest}", "-qmp", f"unix:{path},server=on,wait=off"]
        with Started(SYSTEM, *words) as daemon:
            test, _ = listener.accept()
            for _ in range(1000):
                test.sendall(b"clock_step 1\n")
            replies = test.makefile("rb")
            for _ in range(1000):
                assert replies.readline().startswith(b"OK ")
            with monitor(path) as client:
                assert client.execute("query-block") == []
                daemon.read()
                client.execute("quit")
            text = daemon.reported(0)
            test.close()
            replies.close()
    assert text.count("clock_step 1") == 1000


def test_error_of_the_start_arrives_before_the_end(image_dir: Path) -> None:
    with serve("--qmp", image_dir / "qmp", "--blockdev", "file,node-name=f,filename=/no") as daemon:
        daemon.read()
        text = daemon.reported(1)
    assert text.endswith("Could not open '/no': No such file or directory\n")
