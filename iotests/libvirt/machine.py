"""Scenarios: disks and media of a running domain, its statistics, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import libvirt
from backups import begin_pull, changed, pulled, pulling, stored_bitmaps
from session import (
    CDROM,
    DISK,
    MIB,
    SIZE,
    TIMEOUT_S,
    Disk,
    Session,
    contents,
    overlay,
    qemu_img,
    refused,
    scenario,
    until,
)


@scenario
def resize(session: Session) -> None:
    """Grow a disk while it is in use, and write to its new end."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.domain.blockResize("vda", 2 * SIZE, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    assert session.domain.blockInfo("vda")[0] == 2 * SIZE
    session.disks["vda"].contents.extend(bytes(SIZE))
    session.write("vda", 2 * SIZE - MIB, MIB, 2)
    session.check()


@scenario
def hotplug(session: Session) -> None:
    """Attach a disk, write to it, detach it (QEMU needs a guest that lets it go)."""
    session.start()
    extra = Disk(session.root / "vdc.qcow2", "vdc")
    session.disks["vdc"] = extra
    xml = DISK.format(path=extra.path, dev="vdc")
    with session.leaving_nothing():
        session.domain.attachDevice(xml)
        session.write("vdc", 0, MIB, 5)
        gone = threading.Event()
        session.connection.domainEventRegisterAny(
            session.domain, libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, lambda *_: gone.set(), None
        )
        session.domain.detachDevice(xml)
        assert gone.wait(TIMEOUT_S)
    assert "vdc" not in session.domain.XMLDesc()
    assert contents(extra.path) == extra.contents
    extra.path.unlink()
    refused(lambda: session.domain.attachDevice(xml), "vdc.qcow2")


def medium_in_drive(session: Session) -> str | None:
    """Return the file that the emulator has in its CD drive."""
    (drive,) = (info for info in session.qmp("query-block") if info["removable"])
    return drive["inserted"]["file"] if "inserted" in drive else None


@scenario
def medium(session: Session) -> None:
    """Change, eject and insert the medium of a CD drive."""
    first, second = session.root / "first.iso", session.root / "second.iso"
    first.write_bytes(b"1" * MIB)
    second.write_bytes(b"2" * MIB)
    session.start(CDROM.format(path=first, dev="sda", bus="scsi"))
    assert medium_in_drive(session) == str(first)
    session.domain.updateDeviceFlags(CDROM.format(path=second, dev="sda", bus="scsi"))
    assert medium_in_drive(session) == str(second)
    assert str(second) in session.domain.XMLDesc()
    empty = CDROM.replace("<source file='{path}'/>", "").format(dev="sda", bus="scsi")
    session.domain.updateDeviceFlags(empty, libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE)
    assert medium_in_drive(session) is None
    assert str(second) not in session.domain.XMLDesc()
    assert str(second) not in str(session.qmp("query-named-block-nodes"))
    session.domain.updateDeviceFlags(CDROM.format(path=first, dev="sda", bus="scsi"))
    assert medium_in_drive(session) == str(first)


@scenario
def statistics(session: Session) -> None:
    """Block statistics of writes, reads and flushes."""
    session.start()
    session.write("vda", 0, MIB, 1, "aio_write")  # plain "write" is not accounted
    qom = "/machine/peripheral/virtio-disk0/virtio-backend"
    session.hmp(f'qemu-io -d {qom} "aio_read 0 65536"')
    session.hmp(f'qemu-io -d {qom} "aio_flush"')
    until(lambda: session.domain.blockStatsFlags("vda")["rd_bytes"])
    stats = session.domain.blockStatsFlags("vda")
    numbers = ("wr_bytes", "wr_operations", "rd_bytes", "rd_operations", "flush_operations")
    assert [stats[name] for name in numbers] == [MIB, 1, 65536, 1, 1], stats
    assert stats["wr_total_times"] > 0, stats
    assert session.domain.blockStats("vdb")[:4] == (0, 0, 0, 0)
    (bulk,) = session.connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BLOCK)
    assert bulk[1]["block.0.wr.bytes"] == MIB, bulk
    assert bulk[1]["block.0.capacity"] == bulk[1]["block.1.capacity"] == SIZE, bulk
    allocated = bulk[1]["block.0.allocation"]
    assert allocated > bulk[1]["block.1.allocation"], bulk


@scenario
def tuning(session: Session) -> None:
    """I/O limits: set, read back from the emulator, refused, and taken off."""
    session.start()
    limits = {
        "read_bytes_sec": 5 * MIB,
        "write_bytes_sec": 4 * MIB,
        "read_bytes_sec_max": 10 * MIB,
        "read_bytes_sec_max_length": 3,
        "total_iops_sec": 500,
        "total_iops_sec_max": 900,
        "size_iops_sec": 4096,
        "group_name": "limited",
    }
    session.domain.setBlockIoTune("vda", limits)
    tune = session.domain.blockIoTune("vda")
    assert limits.items() <= tune.items(), tune
    (info,) = (one for one in session.qmp("query-block") if one["inserted"]["iops"])
    inserted = info["inserted"]
    names = ("bps_rd", "bps_wr", "bps_rd_max", "bps_rd_max_length", "iops", "iops_max")
    assert [inserted[name] for name in names] == [5 * MIB, 4 * MIB, 10 * MIB, 3, 500, 900], inserted
    refused(
        lambda: session.domain.setBlockIoTune("vda", {"total_bytes_sec": 1, "read_bytes_sec": 1}),
        "total and read/write of bytes_sec cannot be set at the same time",
    )
    session.domain.setBlockIoTune("vda", dict.fromkeys((n for n in limits if n != "group_name"), 0))
    tune = session.domain.blockIoTune("vda")
    assert not any(value for name, value in tune.items() if name != "group_name"), tune


@scenario
def suspend(session: Session) -> None:
    """Suspend and resume; what was written is in the image when suspended."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.domain.suspend()
    assert session.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    assert session.qmp("query-status")["status"] == "paused"
    assert contents(session.disks["vda"].path) == session.disks["vda"].contents
    session.domain.resume()
    assert session.domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert session.qmp("query-status")["status"] == "running"


def emulator_pid(session: Session) -> int:
    """Return the process of the domain."""
    return int((session.root / "run/qemu/guest.pid").read_text())


@scenario
def stop(session: Session) -> None:
    """Ask the guest to shut down, reset it, stop the emulator: it ends in order, all is stored."""
    session.start()
    session.push(session.root / "full", "c1")
    session.write("vda", 0, MIB, 1)
    ends: list[int] = []
    session.connection.domainEventRegisterAny(
        session.domain,
        libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        lambda _connection, _domain, event, _detail, _opaque: ends.append(event),
        None,
    )
    session.domain.shutdown()  # no guest hears it
    session.domain.reset()
    assert session.domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    pid = emulator_pid(session)
    session.domain.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL)
    assert not Path(f"/proc/{pid}").exists()
    assert session.domain.state() == [
        libvirt.VIR_DOMAIN_SHUTOFF,
        libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED,
    ]
    until(lambda: libvirt.VIR_DOMAIN_EVENT_STOPPED in ends)
    path = session.disks["vda"].path
    qemu_img("check", path)  # takes the lock
    assert stored_bitmaps(path) == {"c1": ["auto"]}
    assert contents(path) == session.disks["vda"].contents


@scenario
def reconnect(session: Session) -> None:
    """End this libvirt without a word to the emulator; another one finds the domain running."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.push(session.root / "full", "c1")
    session.write("vda", MIB, MIB, 2)
    begin_pull(session, None, "c1")
    (session.root / "pid").write_text(str(emulator_pid(session)))
    os.execv(sys.executable, [sys.executable, *sys.argv[:-1], "reconnected"])


@scenario
def reconnected(session: Session) -> None:
    """The second half of ``reconnect``: domain, checkpoint and pull backup are still there."""
    session.domain = session.connection.lookupByName("guest")
    until(session.domain.isActive)
    session.hmp("info status")  # waits until libvirt has found it again
    assert emulator_pid(session) == int((session.root / "pid").read_text())
    assert session.checkpoints() == ["c1"]
    session.disks["vda"].contents[: 2 * MIB] = bytes([1]) * MIB + bytes([2]) * MIB
    before = bytes(session.disks["vda"].contents)
    session.write("vda", 2 * MIB, MIB, 3)
    socket = str(session.root / "nbd.sock")
    assert changed(socket, "vda") == [(MIB, MIB)]
    assert pulled(session, socket, "vda") == before
    session.domain.abortJob()
    until(session.jobs_done)
    assert session.push(session.root / "inc", "c2", "c1") == 2 * MIB
    inc = overlay(session.root / "full/vda.qcow2", session.root / "inc/vda.qcow2")
    assert contents(inc) == session.disks["vda"].contents


@scenario
def kill(session: Session) -> None:
    """SIGKILL of the emulator during a backup: the domain is off; it and a full backup start."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.push(session.root / "full", "c1")
    session.domain.destroy()
    session.domain.create()
    session.write("vda", MIB, MIB, 2)
    begin_pull(session, "c2", "c1")
    os.kill(emulator_pid(session), signal.SIGKILL)
    until(lambda: not session.domain.isActive())
    assert session.domain.state()[1] == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED
    path = session.disks["vda"].path
    assert stored_bitmaps(path) == {"c1": ["auto", "in-use"]}, stored_bitmaps(path)
    kept = contents(path)
    assert kept[:MIB] == bytes([1]) * MIB
    session.domain.create()
    assert session.bitmaps("vda")["c1"]["inconsistent"]
    inc = session.root / "inc"
    refused(lambda: session.begin_push(inc, None, "c1"), "missing or broken bitmap 'c1'")
    session.push(session.root / "again", "c3")
    assert contents(session.root / "again/vda.qcow2") == kept
    with pulling(session, None, "c3") as socket:
        assert changed(socket, "vda") == []
    qemu_img("check", "-U", path)
