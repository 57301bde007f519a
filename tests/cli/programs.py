"""The programs that stand in for QEMU's, and a small client of theirs."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

from cli_runs import TIMEOUT

SCRIPTS = Path(sysconfig.get_path("scripts"))
SYSTEM = str(SCRIPTS / "blkxact-system-x86_64")
STORAGE_DAEMON = str(SCRIPTS / "blkxact-storage-daemon")
QUIET = ("-nodefaults", "-display", "none", "-machine", "none", "-accel", "qtest")


def run(*words, **more):
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        stdin=more.pop("stdin", subprocess.DEVNULL),
        **more,
    )


@contextlib.contextmanager
def started(*words, **more):
    with subprocess.Popen(
        [str(word) for word in words],
        stdin=more.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def connected(path):
    """Return a socket to ``path``, as soon as somebody listens there."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(TIMEOUT)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            assert time.monotonic() < deadline, path
            time.sleep(0.01)
        else:
            return client


class Qmp:
    """A client of few words."""

    def __init__(self, client):
        self._client = client
        self._lines = client.makefile("rb")
        self.greeting = json.loads(self._lines.readline())["QMP"]
        self.run("qmp_capabilities")

    def read(self):
        line = self._lines.readline()
        return json.loads(line) if line else None

    def run(self, name):
        self._client.sendall(json.dumps({"execute": name}).encode())
        while True:
            message = self.read()
            if "event" not in message:
                return message["return"]

    def close(self):
        self._lines.close()
        self._client.close()
