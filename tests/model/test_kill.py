"""``kill -9`` of the real daemon in the middle of a transaction's jobs, on real files.

The moment is chosen by a seed, counted in replies of the daemon, so no test waits by the clock.
Afterwards real QEMU and a new daemon look at what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KIB = 1024
SIZE = 4096 * KIB
PATIENCE_S = 30
DISKS = ("a", "b")
LEAKS_ONLY = 3
"""Exit status of ``qemu-img check`` when clusters have leaked and nothing is wrong."""


class Daemon:
    """``blkxact serve`` and one client, which says one thing after another."""

    def __init__(self, directory: Path) -> None:
        path = directory / "qmp.sock"
        words = [sys.executable, "-m", "blkxact", "serve", "--pidfile", str(directory / "pid")]
        words += ["--qmp", f"unix:{path},server=on,wait=on"]
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*words], env=os.environ | {"PYTHONPATH": "src"}, stderr=subprocess.PIPE, text=True
        )
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                assert self.process.poll() is None, self.process.stderr.read()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.02)
        self._lines = self._socket.makefile("r")
        self._lines.readline()
        self.execute("qmp_capabilities")

    def send(self, command: str, **arguments: Any) -> None:
        """Send a command and do not wait for its reply."""
        wired = {name.replace("_", "-"): value for name, value in arguments.items()}
        message = {"execute": command, "arguments": wired}
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def reply(self) -> Any:
        """Return the next reply; keep the events before it."""
        while True:
            message = json.loads(self._lines.readline())
            if "event" not in message:
                assert "return" in message, message
                return message["return"]
            self.events.append(message)

    def execute(self, command: str, **arguments: Any) -> Any:
        self.send(command, **arguments)
        return self.reply()

    def guest(self, disk: str, command: str) -> str:
        """Do a request in the guest's place."""
        said = self.execute("human-monitor-command", command_line=guest_line(disk, command))
        assert "rror" not in said, said
        return said

    def wait_event(self, name: str) -> dict[str, Any]:
        """Return the data of the next event of that name."""
        while True:
            message = self.events.pop(0) if self.events else json.loads(self._lines.readline())
            if message.get("event") == name:
                return message["data"]

    def open(self, disk: str, path: Path) -> None:
        file = {"driver": "file", "filename": str(path)}
        self.execute("blockdev-add", driver="qcow2", node_name=disk, file=file, discard="unmap")
        self.execute("device_add", driver="scsi-hd", id=f"guest-{disk}", drive=disk)

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Wait for the end of the process."""
        self._lines.close()
        self._socket.close()
        self.process.communicate(timeout=PATIENCE_S)


@contextlib.contextmanager
def daemon_in(directory: Path) -> Iterator[Daemon]:
    daemon = Daemon(directory)
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


def guest_line(disk: str, command: str) -> str:
    return f'qemu-io -d guest-{disk} "{command}"'


def backup(disk: str, directory: Path, **options: Any) -> dict[str, Any]:
    data = {"device": disk, "job-id": f"job-{disk}", "target": str(directory / f"{disk}.copy")}
    return {"type": "drive-backup", "data": data | {"format": "qcow2"} | options}


def prepare(directory: Path, rng: random.Random, qemu_img: Callable[..., str]) -> None:
    """Two disks with data and with a persistent bitmap each, all well stored."""
    for disk in DISKS:
        cluster = rng.choice([4, 64]) * KIB
        options = f"cluster_size={cluster}"
        qemu_img("create", "-q", "-f", "qcow2", "-o", options, directory / disk, SIZE)
    with daemon_in(directory) as daemon:
        for disk in DISKS:
            daemon.open(disk, directory / disk)
            daemon.execute("block-dirty-bitmap-add", node=disk, name="bits", persistent=True)
            daemon.guest(disk, f"write -P 1 0 {SIZE // 2}")
        daemon.execute("quit")
        daemon.close()


def work_and_kill(directory: Path, rng: random.Random) -> dict[str, dict[int, int]]:
    """Start jobs on both disks, write on, and kill; return what was flushed, by cluster."""
    mode = rng.choice(["individual", "grouped", "deferred"])
    flushed: dict[str, dict[int, int]] = {disk: {} for disk in DISKS}
    with daemon_in(directory) as daemon:
        for disk in DISKS:
            daemon.open(disk, directory / disk)
        speed = rng.choice([1, 1, 0])
        how = {"sync": "incremental", "bitmap": "bits", "speed": speed}
        daemon.execute(
            "transaction",
            actions=[backup(disk, directory, **how) for disk in DISKS],
            properties={"completion-mode": mode, "id": "t"},
        )
        daemon.wait_event("JOB_STATUS_CHANGE")
        written: dict[str, dict[int, int]] = {disk: {} for disk in DISKS}
        for _ in range(rng.randint(0, 30)):
            disk, number = rng.choice(DISKS), rng.randrange(SIZE // (64 * KIB))
            if rng.random() < 0.2:
                daemon.guest(disk, "flush")
                flushed[disk] |= written[disk]
                continue
            stamp = rng.randint(2, 255)
            daemon.guest(disk, f"write -P {stamp} {number * 64}k 64k")
            written[disk][number] = stamp
            flushed[disk].pop(number, None)  # either may be there
        for _ in range(rng.randint(1, 6)):  # these are under way when the end comes
            number = rng.randrange(SIZE // (64 * KIB))
            line = guest_line("a", f"aio_write -P 7 {number * 64}k 64k")
            daemon.send("human-monitor-command", command_line=line)
            flushed["a"].pop(number, None)
        daemon.kill()
    return flushed


def live_and_kill(directory: Path, rng: random.Random) -> dict[int, int]:
    """Write, zero, discard, grow, take and delete snapshots, and kill; return what was flushed."""
    written: dict[int, int] = {}
    flushed: dict[int, int] = {}
    size, snapshots = SIZE, 0
    with daemon_in(directory) as daemon:
        daemon.open("a", directory / "a")
        for _ in range(rng.randint(5, 40)):
            number = rng.randrange(size // (64 * KIB))
            place = f"{number * 64}k 64k"
            step = rng.choice(["write", "write", "zero", "discard", "flush", "snapshot", "grow"])
            if step in ("write", "zero", "discard"):
                stamp = rng.randint(2, 255) if step == "write" else 0
                how = {"write": f"write -P {stamp}", "zero": "write -z -u", "discard": "discard"}
                daemon.guest("a", f"{how[step]} {place}")
                written[number] = stamp
                flushed.pop(number, None)
            elif step == "flush":
                daemon.guest("a", "flush")
                flushed |= written
            elif step == "grow":
                size += 64 * KIB * rng.randint(1, 9)
                daemon.execute("block_resize", node_name="a", size=size)
            elif snapshots and rng.random() < 0.4:
                daemon.execute(
                    "blockdev-snapshot-delete-internal-sync", device="a", name=f"s{snapshots}"
                )
                snapshots -= 1
            else:
                snapshots += 1
                daemon.execute("blockdev-snapshot-internal-sync", device="a", name=f"s{snapshots}")
        dying = rng.choice(["block_resize", "blockdev-snapshot-internal-sync", None])
        if dying == "block_resize":
            daemon.send(dying, node_name="a", size=size + SIZE)
        elif dying:
            daemon.send(dying, device="a", name="last")
        daemon.kill()
    return flushed


@pytest.mark.qemu
@pytest.mark.parametrize("seed", range(4))
def test_kill_in_a_life_with_snapshots_and_resizes_leaves_a_sound_image(
    seed: int, image_dir: Path, qemu_img: Callable[..., str]
) -> None:
    print(f"seed: {seed}")
    rng = random.Random(seed)
    prepare(image_dir, rng, qemu_img)
    flushed = live_and_kill(image_dir, rng)
    assert_sound(image_dir / "a")
    with daemon_in(image_dir) as daemon:
        daemon.open("a", image_dir / "a")
        for number, stamp in flushed.items():
            said = daemon.guest("a", f"read -P {stamp} {number * 64}k 64k")
            assert "verification failed" not in said, f"cluster {number}: {said}"
        daemon.execute("quit")
        daemon.close()
    assert_sound(image_dir / "a")


def assert_sound(image: Path) -> None:
    """Assert that the real qemu-img finds leaked clusters at the most."""
    check = subprocess.run(
        ["qemu-img", "check", "--output=json", "-f", "qcow2", image],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode in (0, LEAKS_ONLY), check.stderr + check.stdout


@pytest.mark.qemu
@pytest.mark.parametrize("seed", range(3))
def test_kill_in_the_middle_leaves_sound_images(
    seed: int, image_dir: Path, qemu_img: Callable[..., str]
) -> None:
    print(f"seed: {seed}")
    rng = random.Random(seed)
    prepare(image_dir, rng, qemu_img)
    flushed = work_and_kill(image_dir, rng)

    images = [image_dir / disk for disk in DISKS] + list(image_dir.glob("*.copy"))
    for image in images:
        assert_sound(image)
    for disk in DISKS:
        info = json.loads(qemu_img("info", "--output=json", image_dir / disk))
        bitmaps = info["format-specific"]["data"]["bitmaps"]
        assert ["in-use" in bitmap["flags"] for bitmap in bitmaps] == [True]

    with daemon_in(image_dir) as daemon:
        for disk in DISKS:
            daemon.open(disk, image_dir / disk)
            for number, stamp in flushed[disk].items():
                said = daemon.guest(disk, f"read -P {stamp} {number * 64}k 64k")
                assert "verification failed" not in said, f"{disk}, cluster {number}: {said}"
        nodes = {node["node-name"]: node for node in daemon.execute("query-named-block-nodes")}
        for disk in DISKS:
            assert nodes[disk]["dirty-bitmaps"][0]["inconsistent"]
        daemon.execute(
            "transaction",
            actions=[backup(disk, image_dir, sync="full") for disk in DISKS],
            properties={"id": "anew"},
        )
        assert daemon.wait_event("TRANSACTION_COMPLETED")["status"] == "completed"
        daemon.execute("quit")
        daemon.close()
    for disk in DISKS:
        qemu_img("compare", image_dir / disk, image_dir / f"{disk}.copy")
