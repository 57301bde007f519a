"""Scenarios: snapshots and the jobs that work on chains of images."""

from __future__ import annotations

import json
from pathlib import Path

import libvirt
from session import (
    MIB,
    Session,
    contents,
    qemu_img,
    refused,
    scenario,
    source,
    until,
)


def snapshot_xml(session: Session, name: str, *devs: str) -> str:
    """Return the XML of an external snapshot of some disks."""
    disks = "".join(
        f"<disk name='{dev}' snapshot='external'>"
        f"<source file='{session.root}/{name}-{dev}.qcow2'/></disk>"
        if dev in devs
        else f"<disk name='{dev}' snapshot='no'/>"
        for dev in session.disks
    )
    return f"<domainsnapshot><name>{name}</name><disks>{disks}</disks></domainsnapshot>"


def snapshots(session: Session, *names: str) -> None:
    """Make external snapshots of vda with writes between them."""
    flags = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    )
    for number, name in enumerate(names, 1):
        session.write("vda", number * MIB, 2 * MIB, number)
        session.domain.snapshotCreateXML(
            snapshot_xml(session, name, "vda"), flags | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        )
    session.write("vda", 8 * MIB, MIB, 9)


def chain(session: Session) -> list[str]:
    """Return the names of the images below vda's, from its own on."""
    shown = qemu_img("info", "-U", "--backing-chain", "--output=json", source(session))
    return [Path(image["filename"]).name for image in json.loads(shown)]


def settled(session: Session) -> bool:
    """Return whether vda has no block job."""
    return not session.domain.blockJobInfo("vda", 0)


def ready(session: Session) -> bool:
    """Return whether libvirt knows that vda's block job is ready to pivot."""
    return "ready='yes'" in session.domain.XMLDesc()


@scenario
def external_snapshot(session: Session) -> None:
    """A snapshot of both disks with metadata; they go on in overlays."""
    session.start()
    for dev in session.disks:
        session.write(dev, 0, MIB, 1)
    session.domain.snapshotCreateXML(
        snapshot_xml(session, "s1", "vda", "vdb"), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    )
    frozen = bytes(session.disks["vda"].contents)
    assert session.domain.snapshotListNames() == ["s1"]
    for dev, disk in session.disks.items():
        session.write(dev, 0, MIB, 2)
        assert source(session, dev) == session.root / f"s1-{dev}.qcow2"
        assert contents(disk.path) == frozen
        session.check(dev)
    exists = session.root / "s2-vda.qcow2"
    exists.mkdir()
    refused(lambda: snapshots(session, "s2"), "s2-vda.qcow2")
    assert source(session) == session.root / "s1-vda.qcow2"


@scenario
def external_snapshot_delete(session: Session) -> None:
    """Delete external snapshots: libvirt commits what came after each."""
    session.start()
    for number, name in enumerate(("s1", "s2")):
        session.write("vda", number * MIB, 2 * MIB, 1 + number)
        session.domain.snapshotCreateXML(
            snapshot_xml(session, name, "vda"), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        )
    session.write("vda", 2 * MIB, 2 * MIB, 3)
    session.domain.snapshotLookupByName("s1").delete()
    assert chain(session) == ["s2-vda.qcow2", "vda.qcow2"]
    session.check()
    session.domain.snapshotLookupByName("s2").delete()
    assert chain(session) == ["vda.qcow2"]
    assert session.domain.snapshotListNames() == []
    session.check()
    assert session.held()["jobs"] == []


@scenario
def internal_snapshot(session: Session) -> None:
    """Internal snapshots of the disks and the machine: listed, reverted to and deleted."""
    session.start()
    for number, name in enumerate(("i1", "i2")):
        session.write("vda", 0, MIB, 1 + number)
        session.domain.snapshotCreateXML(f"<domainsnapshot><name>{name}</name></domainsnapshot>")
    assert sorted(session.domain.snapshotListNames()) == ["i1", "i2"]
    session.write("vda", 0, 2 * MIB, 3)
    session.domain.revertToSnapshot(session.domain.snapshotLookupByName("i1"))
    session.disks["vda"].contents[: 2 * MIB] = bytes([1]) * MIB + bytes(MIB)
    session.check()
    session.domain.snapshotLookupByName("i1").delete()
    session.domain.suspend()
    for disk in session.disks.values():
        shown = json.loads(qemu_img("info", "-U", "--output=json", disk.path))
        assert [snapshot["name"] for snapshot in shown["snapshots"]] == ["i2"]
    session.domain.snapshotLookupByName("i2").delete()
    assert session.domain.snapshotListNames() == []
    assert "snapshots" not in qemu_img("info", "-U", "--output=json", session.disks["vda"].path)
    session.check()


@scenario
def block_commit(session: Session) -> None:
    """Commit the middle of a chain, then the active layer with a pivot."""
    session.start()
    snapshots(session, "s1", "s2")
    domain, disk = session.domain, session.disks["vda"]
    domain.blockCommit("vda", str(disk.path), str(session.root / "s1-vda.qcow2"), 0, 0)
    until(lambda: settled(session))
    assert chain(session) == ["s2-vda.qcow2", "vda.qcow2"]
    session.check()
    domain.blockCommit("vda", None, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
    until(lambda: ready(session))
    session.write("vda", 10 * MIB, MIB, 7)
    domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    until(lambda: settled(session))
    assert chain(session) == ["vda.qcow2"]
    session.write("vda", 11 * MIB, MIB, 8)
    session.check()
    assert session.held()["jobs"] == []


@scenario
def block_commit_abort(session: Session) -> None:
    """End an active commit without a pivot: the disk stays on its overlay."""
    session.start()
    snapshots(session, "s1")
    with session.leaving_nothing():
        session.domain.blockCommit("vda", None, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
        until(lambda: ready(session))
        session.domain.blockJobAbort("vda")
        until(lambda: settled(session))
    assert chain(session) == ["s1-vda.qcow2", "vda.qcow2"]
    session.write("vda", 11 * MIB, MIB, 8)
    session.check()


@scenario
def block_copy(session: Session) -> None:
    """Copy a disk: once without and once with going on in the copy."""
    session.start()
    session.write("vda", 0, 4 * MIB, 1)
    disk = session.disks["vda"]
    copies = [session.root / f"copy{number}.qcow2" for number in (1, 2)]
    for copy, flags in zip(copies, (0, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT), strict=True):
        assert source(session) == disk.path
        session.domain.blockCopy(
            "vda",
            f"<disk type='file'><driver type='qcow2'/><source file='{copy}'/></disk>",
            {},
            libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB,
        )
        until(lambda: ready(session))
        session.write("vda", MIB, MIB, 2)
        session.domain.blockJobAbort("vda", flags)
        until(lambda: settled(session))
        assert contents(copy) == disk.contents
    assert source(session) == copies[1]
    before = bytes(disk.contents)
    session.write("vda", 6 * MIB, MIB, 3)
    session.check()
    assert contents(copies[0]) == contents(disk.path) == before
    assert session.held()["jobs"] == []


@scenario
def block_pull(session: Session) -> None:
    """Stream the middle of a chain, then all of it, into its active layer."""
    session.start()
    snapshots(session, "s1", "s2", "s3")
    session.domain.blockRebase("vda", str(session.root / "s1-vda.qcow2"), 0, 0)
    until(lambda: settled(session))
    assert chain(session) == ["s3-vda.qcow2", "s1-vda.qcow2", "vda.qcow2"]
    session.check()
    session.domain.blockPull("vda", 0, 0)
    until(lambda: settled(session))
    assert chain(session) == ["s3-vda.qcow2"]
    session.check()


@scenario
def block_job_progress(session: Session) -> None:
    """A block job at a limited speed reports how far it is, and ends once it is unlimited."""
    session.start()
    session.write("vda", 0, 8 * MIB, 1)
    snapshots(session, "s1")
    ends: list[tuple[int, int]] = []
    session.connection.domainEventRegisterAny(
        session.domain,
        libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
        lambda _connection, _domain, _dev, kind, status, _opaque: ends.append((kind, status)),
        None,
    )
    slow = 65536
    session.domain.blockPull("vda", slow, libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)

    def working() -> bool:
        info = session.domain.blockJobInfo("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
        assert info["type"] == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL, info
        assert info["bandwidth"] == slow, info
        return 0 < info["cur"] < info["end"]

    until(working)
    assert ends == []
    session.domain.blockJobSetSpeed("vda", 0)
    until(lambda: settled(session))
    until(lambda: ends)
    done = libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED
    assert ends == [(libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL, done)], ends
    assert chain(session) == ["s1-vda.qcow2"]
    session.check()
