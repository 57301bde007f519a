"""How ``blkxact serve`` ends while an NBD server does not answer: real sockets, real signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runs import TIMEOUT, assert_refused, blkxact
from tests.nbd.peers import Peer, nbdkit


class Serve:
    """``blkxact serve`` in the foreground, with a QMP client."""

    def __init__(self, directory: Path, *words: str) -> None:
        path = directory / "qmp.sock"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen(1)
        listening.settimeout(TIMEOUT)
        # The daemon connects once it is ready, so nobody has to look whether it is.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "blkxact", "serve", "--qmp", f"unix:{path},server=off", *words],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._listening = listening
        self._client: socket.socket | None = None

    def connect(self) -> None:
        """Wait until the daemon is ready."""
        self._client, _ = self._listening.accept()
        self._client.settimeout(TIMEOUT)
        self._lines = self._client.makefile("rb")
        self._lines.readline()
        self.execute("qmp_capabilities")

    def send(self, command: str, **arguments: Any) -> None:
        members = {name.replace("_", "-"): value for name, value in arguments.items()}
        assert self._client is not None
        self._client.sendall(json.dumps({"execute": command, "arguments": members}).encode())

    def hear(self, wanted: str) -> Any:
        """Return the next message that has the member ``wanted``."""
        while True:
            message = json.loads(self._lines.readline())
            assert "error" not in message, message
            if wanted in message:
                return message[wanted]

    def execute(self, command: str, **arguments: Any) -> Any:
        self.send(command, **arguments)
        return self.hear("return")

    def until_event(self, name: str) -> None:
        while self.hear("event") != name:
            pass

    def ended(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and standard error."""
        _, text = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, text

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        if self._client is not None:
            self._lines.close()
            self._client.close()
        self._listening.close()


@pytest.fixture
def silent(image_dir: Path) -> Iterator[Peer]:
    """A server that agrees on everything and then answers no read."""
    with nbdkit(image_dir, "--filter=delay", "memory", "1M", "rdelay=100000") as peer:
        yield peer


def hanging(directory: Path, silent: Peer, *words: str) -> Serve:
    """Return a daemon with a disk that has a persistent bitmap, and with a hanging request."""
    image = directory / "disk.qcow2"
    assert blkxact("image", "create", "-q", "-f", "qcow2", image, "1M").status == 0
    assert blkxact("image", "bitmap", "--add", image, "b").status == 0
    serve = Serve(
        directory,
        "--blockdev", f"qcow2,node-name=disk,file.driver=file,file.filename={image}",
        "--blockdev", f"nbd,node-name=nbd,server.type=unix,server.path={silent.path}",
        *words,
    )  # fmt: skip
    serve.connect()
    serve.execute("human-monitor-command", command_line='qemu-io disk "write 0 64k"')
    serve.execute("device_add", driver="virtio-blk-pci", drive="nbd", id="guest")
    # It returns when the request is under way.
    serve.execute("human-monitor-command", command_line='qemu-io -d guest "aio_read 0 4k"')
    return serve


def is_stored(image: Path) -> bool:
    """Return whether the image is closed, and its bitmap not in use."""
    done = blkxact("image", "info", "--output", "json", image)
    if done.status:
        return False
    bitmaps = json.loads(done.out)["format-specific"]["data"]["bitmaps"]
    return [bitmap["flags"] for bitmap in bitmaps] == [["auto"]]


def wait_until_stored(image: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_stored(image):
        assert time.monotonic() < deadline, image
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_second_signal_ends_it_and_the_status_tells(
    image_dir: Path, silent: Peer, number: signal.Signals
) -> None:
    serve = hanging(image_dir, silent, "--shutdown-timeout", "1000")
    try:
        serve.process.send_signal(number)
        serve.until_event("SHUTDOWN")
        wait_until_stored(image_dir / "disk.qcow2")
        assert serve.process.poll() is None
        serve.process.send_signal(number)
        status, text = serve.ended()
    finally:
        serve.close()
    assert status == 1
    assert "node 'nbd': the server does not answer; the connection is cut" in text


def test_quit_ends_after_the_timeout(image_dir: Path, silent: Peer) -> None:
    serve = hanging(image_dir, silent, "--shutdown-timeout", "0.2")
    try:
        serve.execute("quit")
        status, _ = serve.ended()
    finally:
        serve.close()
    assert status == 1
    assert is_stored(image_dir / "disk.qcow2")


def test_signal_ends_a_start_that_waits_for_a_server(image_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        path = image_dir / "silent.sock"
        silent.bind(str(path))
        silent.listen()
        silent.settimeout(TIMEOUT)
        serve = Serve(
            image_dir,
            "--shutdown-timeout", "1000",
            "--blockdev", f"nbd,node-name=nbd,server.type=unix,server.path={path}",
        )  # fmt: skip
        try:
            connection, _ = silent.accept()
            serve.process.send_signal(signal.SIGTERM)
            status, text = serve.ended()
            connection.close()
        finally:
            serve.close()
    assert status == 1
    assert text.endswith("Connection attempt cancelled by other operation\n")


@pytest.mark.parametrize("text", ["x", "-1", "nan", "inf", "1e7", ""])
def test_shutdown_timeout_must_be_a_number_of_seconds(text: str) -> None:
    done = blkxact("serve", f"--shutdown-timeout={text}")
    assert f"'{text}' is not a number of seconds" in assert_refused(done, status=done.status)
    assert done.status
