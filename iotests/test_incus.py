"""blkxact answers what Incus asks of QEMU when it probes, starts, backs up and stops an instance.

Incus itself needs KVM and root's bridges; ``incus_start.py`` has its words.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .incus_start import SIZE, Monitor, probe_words, start_words

OURS = str(Path(sys.executable).with_name("blkxact-system-x86_64"))
TIMEOUT_S = 60
PROGRAMS = [
    pytest.param(OURS, id="blkxact"),
    pytest.param("/usr/bin/qemu-system-x86_64", id="qemu", marks=pytest.mark.qemu),
]


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def connected(path: Path) -> Monitor:
    """Connect as Incus does: again and again."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return Monitor(path)
        except OSError:
            assert time.monotonic() < deadline, path
            time.sleep(0.01)


def test_probe_finds_features(program: str, directory: Path) -> None:
    with subprocess.Popen(probe_words(directory, program)) as process:
        try:
            monitor = connected(directory / "probe")
            (directory / "feature").write_bytes(bytes(512))
            node = {"node-name": "incus_feature-check", "driver": "file", "aio": "io_uring"}
            monitor.run("blockdev-add", {**node, "filename": str(directory / "feature")})
            devices = {
                name: "return" in monitor.reply("device-list-properties", {"typename": name})
                for name in ("virtio-9p-pci", "virtio-blk-pci", "nope")
            }
            assert devices["virtio-blk-pci"]
            assert not devices["nope"]
            model = {"model": {"name": "qemu64"}, "type": "full"}
            expanded = monitor.run("query-cpu-model-expansion", model)
            assert expanded["model"]["name"] == "qemu64"
            monitor.close()
        finally:
            process.kill()


@contextlib.contextmanager
def instance(program: str, directory: Path) -> Iterator[Monitor]:
    """Start an instance and connect; end it."""
    done = subprocess.run(
        start_words(directory, program), check=False, capture_output=True, timeout=TIMEOUT_S
    )
    assert (done.returncode, done.stderr) == (0, b"")
    pid = int((directory / "qemu.pid").read_text())
    try:
        monitor = connected(directory / "qemu.monitor")
        yield monitor
        monitor.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def add_disk(monitor: Monitor, directory: Path) -> dict[str, Any]:
    """Plug a qcow2 disk in by its descriptor; return what names it."""
    image = directory / "root.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE)], check=True)
    fd = os.open(image, os.O_RDWR)
    added = monitor.run("add-fd", {"opaque": "rdwr:incus_root"}, fd)
    os.close(fd)
    file = {
        "driver": "file", "filename": f"/dev/fdset/{added['fdset-id']}", "aio": "threads",
        "cache": {"direct": False, "no-flush": False},
    }  # fmt: skip
    node = {
        "driver": "qcow2", "discard": "unmap", "node-name": "incus_root", "read-only": False,
        "file": file,
    }  # fmt: skip
    monitor.run("blockdev-add", node)
    device = {
        "id": "dev-incus_root", "drive": "incus_root", "serial": "incus_root", "bootindex": 0,
        "device_id": "incus_root", "channel": 0, "lun": 1, "bus": "qemu_scsi.0",
        "driver": "scsi-hd",
    }  # fmt: skip
    monitor.run("device_add", device)
    limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    monitor.run("block_set_io_throttle", {"id": "dev-incus_root", **limits, "bps_wr": 1 << 30})
    return added


def test_instance_starts_is_backed_up_and_stops(program: str, directory: Path) -> None:
    with instance(program, directory) as monitor:
        assert monitor.run("query-status")["status"] == "prelaunch"
        machine = monitor.run("qom-get", {"path": "/machine", "property": "type"})
        assert machine.startswith("pc-q35-")
        add_disk(monitor, directory)
        assert len(monitor.run("query-cpus-fast")) == 1
        assert monitor.run("query-memory-size-summary")["base-memory"] == 128 << 20
        monitor.run("system_reset")
        monitor.run("set-action", {"shutdown": "poweroff", "reboot": "shutdown"})
        monitor.run("cont")
        assert monitor.run("query-status")["status"] == "running"
        devices = {each["qdev"] for each in monitor.run("query-blockstats") if "qdev" in each}
        assert "dev-incus_root" in {name.split("/")[-1] for name in devices} | devices
        back_up(monitor, directory)
        if program == OURS:  # QEMU needs a guest that lets the disk go
            unplug(monitor)
        monitor.run("quit")
        monitor.until_event("SHUTDOWN")


def unplug(monitor: Monitor) -> None:
    """Take the disk out, and close its descriptors."""
    monitor.run("device_del", {"id": "dev-incus_root"})
    monitor.until_event("DEVICE_DELETED")
    monitor.run("blockdev-del", {"node-name": "incus_root"})
    for fdset in monitor.run("query-fdsets"):
        monitor.run("remove-fd", {"fdset-id": fdset["fdset-id"]})
    assert monitor.run("query-fdsets") == []


def back_up(monitor: Monitor, directory: Path) -> None:
    """Export the disk with its bitmap, and make a point-in-time copy of it over NBD."""
    monitor.run("transaction", {"actions": [
        {"type": "block-dirty-bitmap-add",
         "data": {"node": "incus_root", "name": "b0", "persistent": True}},
    ]})  # fmt: skip
    target = directory / "fleece.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", target, str(SIZE)]
    subprocess.run(create, check=True)
    monitor.run("blockdev-add", {
        "driver": "qcow2", "node-name": "fleece", "backing": "incus_root",
        "file": {"driver": "file", "filename": str(target)},
    })  # fmt: skip
    action = {"device": "incus_root", "target": "fleece", "sync": "none", "job-id": "job"}
    monitor.run("transaction", {"actions": [{"type": "blockdev-backup", "data": action}]})
    path = str(directory / "nbd.sock")
    address = {"type": "unix", "data": {"path": path}}
    monitor.run("nbd-server-start", {"addr": address, "max-connections": 1})
    monitor.run("block-export-add", {
        "id": "fleece", "type": "nbd", "node-name": "fleece", "name": "fleece", "writable": False,
        "bitmaps": [{"node": "incus_root", "name": "b0"}],
    })  # fmt: skip
    assert [one["id"] for one in monitor.run("query-block-exports")] == ["fleece"]
    uri = f"nbd+unix:///fleece?socket={path}"
    copy = ["qemu-img", "convert", "-O", "raw", uri, directory / "copy"]
    subprocess.run(copy, check=True, timeout=TIMEOUT_S)
    assert (directory / "copy").read_bytes() == bytes(SIZE)
    monitor.run("nbd-server-stop")
    monitor.until_event("BLOCK_EXPORT_DELETED")
    monitor.run("block-job-cancel", {"device": "job"})
    monitor.until_event("BLOCK_JOB_CANCELLED")
    monitor.run("blockdev-del", {"node-name": "fleece"})
    monitor.run("block-dirty-bitmap-remove", {"node": "incus_root", "name": "b0"})
