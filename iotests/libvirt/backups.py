"""Scenarios: checkpoints and backups."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import libvirt
from session import (
    MIB,
    SIZE,
    THIRD_SIZE,
    Session,
    checkpoint_xml,
    contents,
    overlay,
    qemu_img,
    refused,
    scenario,
    third_disk,
    until,
)

GRANULARITY = 65536


@scenario
def checkpoint(session: Session) -> None:
    """Checkpoints: create, list, size, delete, redefine."""
    session.start()
    domain = session.domain
    first = domain.checkpointCreateXML(checkpoint_xml("c1"))
    session.write("vda", 0, MIB, 1)
    second = domain.checkpointCreateXML(checkpoint_xml("c2"))
    session.write("vda", 2 * MIB, MIB, 2)
    assert session.checkpoints() == ["c1", "c2"]
    assert second.getParent().getName() == "c1"
    assert [child.getName() for child in first.listAllChildren()] == ["c2"]
    for dev in session.disks:
        bitmaps = session.bitmaps(dev)
        assert sorted(bitmaps) == ["c1", "c2"]
        assert all(one["persistent"] and "inconsistent" not in one for one in bitmaps.values())
    size = first.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE)
    assert f"size='{2 * MIB}'" in size, size
    assert "size='0'" in size, size  # vdb
    text = first.getXMLDesc()
    metadata_only = libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
    first.delete(metadata_only)
    assert session.checkpoints() == ["c2"]
    second.delete(metadata_only)
    assert sorted(session.bitmaps("vda")) == ["c1", "c2"]
    flags = (
        libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
        | libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
    )
    domain.checkpointCreateXML(text, flags)
    assert session.checkpoints() == ["c1"]
    domain.checkpointLookupByName("c1").delete()
    assert session.checkpoints() == []
    assert sorted(session.bitmaps("vda")) == ["c2"]
    refused(lambda: domain.checkpointCreateXML(text, flags), "missing or broken bitmap 'c1'")


@scenario
def checkpoint_delete(session: Session) -> None:
    """Delete the later of two checkpoints: an increment since the earlier one has all."""
    session.start()
    session.push(session.root / "full", "c1")
    session.write("vda", 0, MIB, 1)
    second = session.domain.checkpointCreateXML(checkpoint_xml("c2"))
    session.write("vda", 2 * MIB, MIB, 2)
    second.delete()
    assert list(session.bitmaps("vda")) == ["c1"]
    session.write("vda", 4 * MIB, MIB, 3)
    assert session.bitmaps("vda")["c1"]["count"] == 3 * MIB
    session.push(session.root / "inc", "c3", "c1")
    inc = overlay(session.root / "full/vda.qcow2", session.root / "inc/vda.qcow2")
    assert contents(inc) == session.disks["vda"].contents


@scenario
def push(session: Session) -> None:
    """A full and two incremental backups, restored."""
    session.start()
    for dev in session.disks:
        session.write(dev, 0, 3 * MIB, 1)
    session.push(session.root / "full", "c1")
    session.write("vda", MIB, MIB, 2)
    session.push(session.root / "inc1", "c2", "c1")
    session.write("vdb", 5 * MIB, MIB, 3)
    session.write("vda", 9 * MIB, GRANULARITY, 4)
    assert session.push(session.root / "inc2", "c3", "c2") == MIB + GRANULARITY
    for dev, disk in session.disks.items():
        one = overlay(session.root / f"full/{dev}.qcow2", session.root / f"inc1/{dev}.qcow2")
        two = overlay(one, session.root / f"inc2/{dev}.qcow2")
        assert contents(two) == disk.contents, dev
    # One that covers two checkpoints merges their bitmaps.
    session.push(session.root / "both", None, "c1")
    for dev, disk in session.disks.items():
        both = overlay(session.root / f"full/{dev}.qcow2", session.root / f"both/{dev}.qcow2")
        assert contents(both) == disk.contents, dev
    missing = session.root / "missing"
    refused(
        lambda: session.begin_push(missing, None, "c9"),
        "Checkpoint 'c9' for incremental backup of disk 'vda' not found",
    )
    assert not list(missing.iterdir())


@scenario
def push_while_the_guest_writes(session: Session) -> None:
    """A backup has the disks of when it began; its progress is reported until it ends."""
    with third_disk(session) as server:
        session.write("vda", 0, 3 * MIB, 1)
        before = bytes(session.disks["vda"].contents)
        with session.leaving_nothing():
            server("p")
            session.begin_push(session.root / "full", "c1", devs=("vda", "vdb", "vdc"))

            def progressing() -> bool:
                info = session.domain.jobStats()
                assert info["operation"] == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP, info
                sizes = (info["disk_processed"], info["disk_total"])
                return sizes == (2 * SIZE, 2 * SIZE + THIRD_SIZE)

            until(progressing)
            session.write("vda", MIB, 4 * MIB, 2)
            server("r")
            until(session.jobs_done)
        assert session.succeeded() == 2 * SIZE + THIRD_SIZE
        assert contents(session.root / "full/vda.qcow2") == before
        assert session.push(session.root / "inc", "c2", "c1") == 4 * MIB
        inc = overlay(session.root / "full/vda.qcow2", session.root / "inc/vda.qcow2")
        assert contents(inc) == session.disks["vda"].contents


@scenario
def push_abort(session: Session) -> None:
    """Abort a push backup in the middle: nothing is left, and the next increment has all."""
    with third_disk(session) as server:
        session.write("vda", 0, MIB, 1)
        session.push(session.root / "full", "c1")
        session.write("vda", MIB, MIB, 2)
        with session.leaving_nothing():
            server("p")
            session.begin_push(session.root / "aborted", devs=("vda", "vdb", "vdc"))
            session.write("vda", 2 * MIB, MIB, 3)
            session.domain.abortJob()
            server("r")
            until(session.jobs_done)
        stats = session.domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        assert stats["success"] is False, stats
        assert stats["disk_processed"] < stats["disk_total"], stats
        session.push(session.root / "inc", "c2", "c1")
        inc = overlay(session.root / "full/vda.qcow2", session.root / "inc/vda.qcow2")
        assert contents(inc) == session.disks["vda"].contents


@contextlib.contextmanager
def pulling(session: Session, checkpoint: str | None, since: str | None) -> Iterator[str]:
    """Start a pull backup; yield the socket of its NBD server."""
    with session.leaving_nothing():
        yield begin_pull(session, checkpoint, since)
        session.domain.abortJob()
        until(session.jobs_done)
    assert not list(session.root.glob("*.scratch"))


def begin_pull(session: Session, checkpoint: str | None, since: str | None) -> str:
    """Begin a pull backup; return the socket of its NBD server."""
    socket = session.root / "nbd.sock"
    incremental = f"<incremental>{since}</incremental>" if since else ""
    bitmap = "exportbitmap='changed'" if since else ""
    disks = "".join(
        f"<disk name='{dev}' backup='yes' type='file' exportname='disk-{dev}' {bitmap}>"
        f"<scratch file='{session.root}/{dev}.scratch'/></disk>"
        for dev in session.disks
    )
    session.domain.backupBegin(
        f"<domainbackup mode='pull'>{incremental}<server transport='unix' socket='{socket}'/>"
        f"<disks>{disks}</disks></domainbackup>",
        checkpoint_xml(checkpoint),
    )
    assert str(socket) in session.domain.backupGetXMLDesc()
    return str(socket)


def pulled(session: Session, socket: str, dev: str) -> bytes:
    """Return what the real qemu-img reads from an export over NBD."""
    target = session.root / f"pulled-{dev}.raw"
    qemu_img("convert", "-O", "raw", f"nbd+unix:///disk-{dev}?socket={socket}", target)
    return target.read_bytes()


def changed(socket: str, dev: str) -> list[tuple[int, int]]:
    """Return start and length of what the exported bitmap says is dirty."""
    shown = qemu_img(
        "map", "--output=json", "--image-opts",
        f"driver=nbd,server.type=unix,server.path={socket},export=disk-{dev},"
        "x-dirty-bitmap=qemu:dirty-bitmap:changed",
    )  # fmt: skip
    return [(part["start"], part["length"]) for part in json.loads(shown) if not part["data"]]


@scenario
def pull(session: Session) -> None:
    """A full and an incremental pull, while the guest writes."""
    session.start()
    session.write("vda", 0, 3 * MIB, 1)
    before = {dev: bytes(disk.contents) for dev, disk in session.disks.items()}
    with pulling(session, "c1", None) as socket:
        for dev in session.disks:
            session.write(dev, MIB, MIB, 2)
            assert pulled(session, socket, dev) == before[dev], dev
            session.write(dev, 8 * MIB, MIB, 2)
            assert pulled(session, socket, dev) == before[dev], dev
    before = {dev: bytes(disk.contents) for dev, disk in session.disks.items()}
    with pulling(session, "c2", "c1") as socket:
        session.write("vda", 0, 2 * MIB, 3)
        for dev in session.disks:
            assert pulled(session, socket, dev) == before[dev], dev
            assert changed(socket, dev) == [(MIB, MIB), (8 * MIB, MIB)], dev
    with pulling(session, None, "c2") as socket:
        assert changed(socket, "vda") == [(0, 2 * MIB)]
        assert changed(socket, "vdb") == []
    assert session.checkpoints() == ["c1", "c2"]


@scenario
def pull_abort(session: Session) -> None:
    """Pull backups that are ended before anything was read; the next increment has all."""
    session.start()
    session.write("vda", 0, 8 * MIB, 1)
    session.push(session.root / "full", "c1")
    session.write("vda", 0, MIB, 2)
    with pulling(session, None, "c1"):
        session.write("vda", MIB, MIB, 3)
    session.push(session.root / "inc", "c2", "c1")
    inc = overlay(session.root / "full/vda.qcow2", session.root / "inc/vda.qcow2")
    assert contents(inc) == session.disks["vda"].contents


def stored_bitmaps(path: Path) -> dict[str, list[str]]:
    """Return the flags of each bitmap that an image stores."""
    data = json.loads(qemu_img("info", "--output=json", path))["format-specific"]["data"]
    return {bitmap["name"]: sorted(bitmap["flags"]) for bitmap in data.get("bitmaps", [])}


@scenario
def restart(session: Session) -> None:
    """Shut down and start again: the bitmaps are still there and good."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.push(session.root / "full", "c1")
    session.write("vda", MIB, MIB, 2)
    session.domain.destroy()
    assert stored_bitmaps(session.disks["vda"].path) == {"c1": ["auto"]}
    session.domain.create()
    assert session.checkpoints() == ["c1"]
    session.write("vda", 2 * MIB, MIB, 3)
    assert session.push(session.root / "inc", "c2", "c1") == 2 * MIB
    inc = overlay(session.root / "full/vda.qcow2", session.root / "inc/vda.qcow2")
    assert contents(inc) == session.disks["vda"].contents
