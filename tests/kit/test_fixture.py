"""The fixture ``blkxact`` as a backup tool's tests use it."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from qemu.qmp import QMPClient

from blkxact.kit import Emulator, KitError, QmpError

BITMAP = {"node": "vda", "name": "b0"}


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def backup(blkxact, target, **options):
    blkxact.execute(
        "drive-backup",
        device="vda",
        job_id="backup0",
        sync="full",
        target=str(target),
        format="qcow2",
        **options,
    )


def test_disk_is_written_read_discarded_and_compared(blkxact):
    disk = blkxact.disk("vda", size="4M")
    blkxact.guest.write("vda", 65536, b"x" * 4096)
    assert blkxact.guest.read("vda", 65536, 4096) == b"x" * 4096
    assert blkxact.contents("vda", 65536, 2) == b"xx"
    blkxact.guest.write_zeroes("vda", 65536, 512)
    blkxact.guest.write("vda", 131072, b"y" * 65536)
    blkxact.guest.discard("vda", 131072, 65536)
    assert blkxact.contents("vda") == bytes(65536 + 512) + b"x" * 3584 + bytes((4 << 20) - 69632)
    assert disk.path.read_bytes()[:4] == b"QFI\xfb"
    assert blkxact.disk("vda") is disk


def test_client_on_the_socket_is_greeted_as_by_qemu(blkxact):
    blkxact.disk("vda")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(blkxact.qmp)
        with client.makefile() as stream:
            greeting = json.loads(stream.readline())
    assert "QMP" in greeting


async def test_asyncio_client_makes_a_backup_that_equals_the_disk(blkxact, tmp_path):
    blkxact.disk("vda", size="1M")
    blkxact.guest.write("vda", 4096, b"data")
    client = QMPClient("test")
    await client.connect(blkxact.qmp)
    arguments = {
        "device": "vda",
        "job-id": "j",
        "sync": "full",
        "target": str(tmp_path / "t.qcow2"),
    }
    await client.execute("drive-backup", {**arguments, "format": "qcow2"})
    data = await blkxact.events.arrive("BLOCK_JOB_COMPLETED", device="j")
    await client.disconnect()
    assert "error" not in data
    assert blkxact.contents(tmp_path / "t.qcow2") == blkxact.contents("vda")


@pytest.mark.blkxact(disks={"vda": "1M", "vdb": 2 << 20}, emulate="10.0")
def test_marker_says_which_disks_and_which_qemu(blkxact):
    found = {info["device"] or info["qdev"]: info for info in blkxact.execute("query-block")}
    assert len(found) == 2
    assert len(blkxact.contents("vdb")) == 2 << 20
    assert blkxact.execute("query-version")["qemu"]["major"] == 10


@pytest.mark.blkxact(disks=["vda"], program="storage-daemon")
def test_storage_daemon_has_a_guest_without_devices(blkxact):
    blkxact.guest.write("vda", 0, b"x")
    assert blkxact.contents("vda", 0, 1) == b"x"
    with pytest.raises(KitError, match="no command 'device_add'"):
        blkxact.execute("device_add", driver="virtio-blk-pci")


def test_dirty_returns_the_ranges_of_a_bitmap(blkxact):
    blkxact.disk("vda")
    blkxact.execute("block-dirty-bitmap-add", **BITMAP, granularity=65536)
    blkxact.guest.write("vda", 65536, b"x")
    blkxact.guest.write("vda", 1 << 20, b"x" * 65537)
    assert blkxact.dirty("vda", "b0") == [(65536, 65536), (1 << 20, 131072)]


def test_events_are_listed_and_waited_for(blkxact, tmp_path):
    blkxact.disk("vda", size="1M")
    backup(blkxact, tmp_path / "t.qcow2")
    assert blkxact.events.wait("JOB_STATUS_CHANGE", status="concluded", id="backup0")
    assert blkxact.events.named("BLOCK_JOB_COMPLETED", device="backup0")
    assert [event for event in blkxact.events if event["event"] == "BLOCK_JOB_COMPLETED"]
    with pytest.raises(
        KitError, match=r"no event NBD_X within 0.01 s; the last that came: .*NULL|JOB"
    ):
        blkxact.events.wait("NBD_X", timeout=0.01)


def test_error_of_a_command_is_qemus(blkxact):
    with pytest.raises(QmpError, match="Cannot find device='vdz' nor node-name='vdz'"):
        blkxact.execute("block-dirty-bitmap-add", node="vdz", name="b0")
    with pytest.raises(KitError, match="no disk 'vdz'"):
        blkxact.guest.write("vdz", 0, b"x")
    blkxact.disk("vda", size=512)
    with pytest.raises(OSError, match="Input/output error") as failed:
        blkxact.guest.write("vda", 512, b"x")
    assert failed.value.errno == errno.EIO


def test_restart_keeps_disks_and_persistent_bitmaps(blkxact):
    blkxact.disk("vda")
    blkxact.execute("block-dirty-bitmap-add", **BITMAP, persistent=True)
    blkxact.guest.write("vda", 0, b"x")
    blkxact.restart()
    assert blkxact.dirty("vda", "b0") == [(0, 65536)]
    assert blkxact.contents("vda", 0, 1) == b"x"
    assert [event["event"] for event in blkxact.events] == ["SHUTDOWN"]


def test_kill_loses_what_was_not_flushed_and_leaves_the_bitmap_inconsistent(blkxact):
    blkxact.disk("vda")
    blkxact.execute("block-dirty-bitmap-add", **BITMAP, persistent=True)
    blkxact.guest.write("vda", 0, b"x")
    blkxact.restart()
    blkxact.guest.write("vda", 0, b"y")
    blkxact.guest.flush("vda")
    blkxact.guest.write("vda", 1 << 20, b"z")
    blkxact.kill()
    with pytest.raises(KitError, match="does not run; restart"):
        blkxact.guest.read("vda", 0, 1)
    blkxact.restart()
    assert blkxact.contents("vda", 0, 1) == b"y"
    assert blkxact.contents("vda", 1 << 20, 1) == b"\0"
    [bitmap] = blkxact.execute("query-named-block-nodes", flat=True)[0]["dirty-bitmaps"]
    assert bitmap["inconsistent"]
    blkxact.execute("block-dirty-bitmap-remove", **BITMAP)


def test_kill_cuts_the_connections_and_ends_calls_that_wait(blkxact, tmp_path):
    blkxact.disk("vda", size="4M")
    blkxact.guest.write("vda", 0, b"x" * (4 << 20))
    backup(blkxact, tmp_path / "t.qcow2", speed=65536)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(blkxact.qmp)
        assert client.recv(1000)
        blkxact.kill()
        with suppress(ConnectionResetError):
            assert client.recv(1000) == b""
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as client:
        client.connect(blkxact.qmp)
    blkxact.restart()
    assert blkxact.execute("query-jobs") == []


def test_emulators_come_and_go_without_leaving_threads_or_descriptors(tmp_path):
    def one(number):
        directory = tmp_path / str(number)
        directory.mkdir()
        emulator = Emulator(directory)
        emulator.disk("vda", size="1M")
        emulator.guest.write("vda", 0, b"x")
        if number % 2:
            emulator.kill()
        assert emulator.close() == []

    one(0)
    one(1)
    before = threading.active_count(), descriptors()
    for number in range(2, 8):
        one(number)
    assert threading.active_count() <= before[0]
    assert descriptors() <= before[1]


def test_system_is_a_directory_for_the_path_with_qemus_programs(blkxact):
    directory = blkxact.system()
    said = subprocess.run(
        [directory / "qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("QEMU emulator version")


async def test_call_in_a_test_with_a_running_loop_works(blkxact):
    disk = blkxact.disk("vda", size="1M")
    await asyncio.to_thread(blkxact.guest.write, "vda", 0, b"x")
    blkxact.stop()
    assert blkxact.contents(disk.path, 0, 1) == b"x"
    with pytest.raises(KitError, match="Could not open"):
        blkxact.contents(disk.path.with_name("none.qcow2"))


def test_nbd_address_is_that_of_the_server_that_the_tool_starts(blkxact, image_dir):
    blkxact.disk("vda")
    assert blkxact.nbd is None
    path = str(image_dir / "nbd")
    blkxact.execute("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
    assert blkxact.nbd == f"unix:{path}"
