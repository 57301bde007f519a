"""One libvirt, embedded in this process, and one domain: the operations of a backup tool.

Run by the system's Python, whose package python3-libvirt this needs:
``session.py EMULATOR DIRECTORY SCENARIO``. Exit status 0: what libvirt and the images say is right.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt
import libvirt_qemu

MIB = 1 << 20
SIZE = 16 * MIB
TIMEOUT_S = 60

CONF = """
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
"""

DOMAIN = """
<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><emulator>{emulator}</emulator>{devices}
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>
"""

DISK = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
<source file='{path}'/><target dev='{dev}' bus='virtio'/></disk>
"""

CDROM = """
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{path}'/>
<target dev='{dev}' bus='{bus}'/><readonly/></disk>
"""


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fail after ``TIMEOUT_S``."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"no {condition.__name__} after {TIMEOUT_S} s"
        time.sleep(0.01)


class Disk:
    """An image, and what the guest has written to it so far."""

    def __init__(self, path: Path, dev: str) -> None:
        self.path, self.dev = path, dev
        self.contents = bytearray(SIZE)
        if not path.exists():
            qemu_img("create", "-f", "qcow2", path, str(SIZE))


class Session:
    """An embedded libvirt with one running domain."""

    def __init__(self, emulator: str, root: Path) -> None:
        self.emulator, self.root = emulator, root
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc/qemu.conf").write_text(CONF)
        self.events: list[tuple[object, ...]] = []
        self.connection = libvirt.open(f"qemu:///embed?root={root}")
        self.disks = {dev: Disk(root / f"{dev}.qcow2", dev) for dev in ("vda", "vdb")}
        self.domain = None

    def start(self, extra: str = "") -> None:
        """Start the domain on the images as they are."""
        devices = "".join(DISK.format(path=d.path, dev=d.dev) for d in self.disks.values())
        xml = DOMAIN.format(emulator=self.emulator, devices=devices + extra)
        self.domain = self.connection.defineXML(xml)
        self.domain.create()

    def hmp(self, line: str) -> str:
        """Run a line of the human monitor."""
        return libvirt_qemu.qemuMonitorCommand(self.domain, line, 1)

    def write(self, dev: str, offset: int, length: int, pattern: int, verb: str = "write") -> None:
        """Write as the guest."""
        number = sorted(self.disks).index(dev)
        qom = f"/machine/peripheral/virtio-disk{number}/virtio-backend"
        text = self.hmp(f'qemu-io -d {qom} "{verb} -P {pattern} {offset} {length}"')
        assert not text.strip(), text
        self.disks[dev].contents[offset : offset + length] = bytes([pattern]) * length

    def check(self, dev: str = "vda") -> None:
        """Compare the image that the guest is on with what it wrote; a suspended one is flushed."""
        self.domain.suspend()
        assert contents(source(self, dev)) == self.disks[dev].contents
        self.domain.resume()

    def jobs_done(self) -> bool:
        """Return whether no backup runs."""
        return self.domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE

    def push(self, target: Path, checkpoint: str | None = None, since: str | None = None) -> None:
        """Back up vda and vdb into qcow2 files in ``target``."""
        target.mkdir()
        disks = "".join(
            f"<disk name='{dev}' backup='yes' type='file'><driver type='qcow2'/>"
            f"<target file='{target / dev}.qcow2'/></disk>"
            for dev in self.disks
        )
        incremental = f"<incremental>{since}</incremental>" if since else ""
        self.domain.backupBegin(
            f"<domainbackup mode='push'>{incremental}<disks>{disks}</disks></domainbackup>",
            checkpoint_xml(checkpoint),
        )
        until(self.jobs_done)
        stats = self.domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        assert stats["success"] is True, stats
        assert stats["disk_total"] == stats["disk_processed"], stats

    def checkpoints(self) -> list[str]:
        """Return the names of all checkpoints, sorted."""
        return sorted(c.getName() for c in self.domain.listAllCheckpoints())


def checkpoint_xml(name: str | None) -> str | None:
    """Return the XML of a checkpoint of both disks."""
    return name and f"<domaincheckpoint><name>{name}</name></domaincheckpoint>"


def qemu_img(*words: object) -> str:
    """Run the real qemu-img."""
    done = subprocess.run(
        ["qemu-img", *map(str, words)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done
    return done.stdout


def contents(path: Path, fmt: str = "qcow2") -> bytes:
    """Return what an image reads as."""
    raw = path.with_suffix(".raw")
    qemu_img("convert", "-U", "-f", fmt, "-O", "raw", path, raw)
    data = raw.read_bytes()
    raw.unlink()
    return data


def overlay(full: Path, increment: Path) -> Path:
    """Put an increment on top of a full backup."""
    qemu_img("rebase", "-u", "-F", "qcow2", "-b", full, increment)
    return increment


SCENARIOS: dict[str, Callable[[Session], None]] = {}


def scenario(function: Callable[[Session], None]) -> Callable[[Session], None]:
    """List a scenario by its name."""
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function


@scenario
def checkpoint(session: Session) -> None:
    """Checkpoints: create, list, size, redefine, delete."""
    session.start()
    domain = session.domain
    first = domain.checkpointCreateXML(checkpoint_xml("c1"))
    session.write("vda", 0, MIB, 1)
    domain.checkpointCreateXML(checkpoint_xml("c2"))
    session.write("vda", 2 * MIB, MIB, 2)
    assert session.checkpoints() == ["c1", "c2"]
    size = domain.checkpointLookupByName("c1").getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE)
    assert f"size='{2 * MIB}'" in size, size
    text = first.getXMLDesc()
    first.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    assert session.checkpoints() == ["c2"]
    domain.checkpointLookupByName("c2").delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    redefine = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
    valid = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
    domain.checkpointCreateXML(text, redefine | valid)
    assert session.checkpoints() == ["c1"]
    domain.checkpointLookupByName("c1").delete()
    assert session.checkpoints() == []


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
    session.write("vda", 9 * MIB, 65536, 4)
    session.push(session.root / "inc2", "c3", "c2")
    for dev, disk in session.disks.items():
        one = overlay(session.root / f"full/{dev}.qcow2", session.root / f"inc1/{dev}.qcow2")
        two = overlay(one, session.root / f"inc2/{dev}.qcow2")
        assert contents(two) == disk.contents, dev
    # One that covers two checkpoints merges their bitmaps.
    session.push(session.root / "both", None, "c1")
    for dev, disk in session.disks.items():
        both = overlay(session.root / f"full/{dev}.qcow2", session.root / f"both/{dev}.qcow2")
        assert contents(both) == disk.contents, dev


@contextlib.contextmanager
def pulling(session: Session, checkpoint: str | None, since: str | None) -> Iterator[str]:
    """Start a pull backup; yield the socket of its NBD server."""
    socket = session.root / "nbd.sock"
    incremental = f"<incremental>{since}</incremental>" if since else ""
    disks = "".join(
        f"<disk name='{dev}' backup='yes' type='file'>"
        f"<scratch file='{session.root}/{dev}.scratch'/></disk>"
        for dev in session.disks
    )
    session.domain.backupBegin(
        f"<domainbackup mode='pull'>{incremental}<server transport='unix' socket='{socket}'/>"
        f"<disks>{disks}</disks></domainbackup>",
        checkpoint_xml(checkpoint),
    )
    assert session.domain.backupGetXMLDesc()
    yield str(socket)
    session.domain.abortJob()
    until(session.jobs_done)
    assert not list(session.root.glob("*.scratch"))


def pulled(session: Session, socket: str, dev: str, name: str) -> Path:
    """Read an export over NBD with the real qemu-img."""
    target = session.root / f"{name}-{dev}.raw"
    qemu_img("convert", "-O", "raw", f"nbd+unix:///{dev}?socket={socket}", target)
    return target


@scenario
def pull(session: Session) -> None:
    """A full and an incremental pull, while the guest writes."""
    session.start()
    session.write("vda", 0, 3 * MIB, 1)
    before = {dev: bytes(disk.contents) for dev, disk in session.disks.items()}
    with pulling(session, "c1", None) as socket:
        session.write("vda", MIB, MIB, 2)
        session.write("vdb", MIB, MIB, 2)
        for dev in session.disks:
            assert pulled(session, socket, dev, "full").read_bytes() == before[dev], dev
    before = {dev: bytes(disk.contents) for dev, disk in session.disks.items()}
    with pulling(session, "c2", "c1") as socket:
        session.write("vda", 0, 2 * MIB, 3)
        for dev in session.disks:
            assert pulled(session, socket, dev, "inc").read_bytes() == before[dev], dev
            bitmap = f"backup-{dev}"
            shown = qemu_img(
                "map",
                "--output=json",
                "--image-opts",
                f"driver=nbd,server.type=unix,server.path={socket},export={dev},"
                f"x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}",
            )
            assert f'"start": {MIB}, "length": {MIB}' in shown, shown
    assert session.checkpoints() == ["c1", "c2"]


@scenario
def abort(session: Session) -> None:
    """A push backup that is aborted, and the next one is good."""
    session.start()
    session.write("vda", 0, 8 * MIB, 1)
    with pulling(session, "c1", None):
        pass
    session.write("vda", 0, MIB, 2)
    with pulling(session, None, "c1"):
        session.write("vda", MIB, MIB, 3)
    session.push(session.root / "full", "c2")
    assert contents(session.root / "full/vda.qcow2") == session.disks["vda"].contents


def snapshot_xml(session: Session, name: str) -> str:
    """Return the XML of an external snapshot of vda alone."""
    return (
        f"<domainsnapshot><name>{name}</name><disks><disk name='vda' snapshot='external'>"
        f"<source file='{session.root}/{name}.qcow2'/></disk>"
        "<disk name='vdb' snapshot='no'/></disks></domainsnapshot>"
    )


def snapshots(session: Session, *names: str) -> None:
    """Make external snapshots with writes between them."""
    flags = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    )
    for number, name in enumerate(names, 1):
        session.write("vda", number * MIB, 2 * MIB, number)
        session.domain.snapshotCreateXML(
            snapshot_xml(session, name), flags | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        )
    session.write("vda", 8 * MIB, MIB, 9)


def source(session: Session, dev: str = "vda") -> Path:
    """Return the file that a disk is on now."""
    for disk in ET.fromstring(session.domain.XMLDesc()).iter("disk"):
        if disk.find("target").get("dev") == dev:
            return Path(disk.find("source").get("file"))
    raise AssertionError(dev)


def settled(session: Session) -> bool:
    """Return whether vda has no block job."""
    return not session.domain.blockJobInfo("vda", 0)


def ready(session: Session) -> bool:
    """Return whether vda's block job is ready to pivot."""
    info = session.domain.blockJobInfo("vda", 0)
    return bool(info) and info["cur"] == info["end"] and info["end"] > 0


@scenario
def external_snapshot(session: Session) -> None:
    """A snapshot with metadata; the disk goes on in the overlay."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.domain.snapshotCreateXML(
        snapshot_xml(session, "s1"), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    )
    frozen = bytes(session.disks["vda"].contents)
    session.write("vda", 0, MIB, 2)
    assert source(session) == session.root / "s1.qcow2"
    assert contents(session.disks["vda"].path) == frozen
    session.check()
    session.domain.snapshotLookupByName("s1").delete(
        libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY
    )


@scenario
def internal_snapshot(session: Session) -> None:
    """An internal snapshot of the disks and the machine, listed and deleted."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.domain.snapshotCreateXML("<domainsnapshot><name>i1</name></domainsnapshot>")
    assert "i1" in qemu_img("snapshot", "-U", "-l", session.disks["vda"].path)
    session.write("vda", 0, MIB, 2)
    session.domain.snapshotLookupByName("i1").delete()
    assert "i1" not in qemu_img("snapshot", "-U", "-l", session.disks["vda"].path)


@scenario
def block_commit(session: Session) -> None:
    """Commit the middle of a chain, then the active layer with a pivot."""
    session.start()
    snapshots(session, "s1", "s2")
    domain, disk = session.domain, session.disks["vda"]
    domain.blockCommit("vda", str(disk.path), str(session.root / "s1.qcow2"), 0, 0)
    until(lambda: settled(session))
    session.check()
    domain.blockCommit("vda", None, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
    until(lambda: ready(session))
    session.write("vda", 10 * MIB, MIB, 7)
    domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    until(lambda: settled(session))
    assert source(session) == disk.path
    session.write("vda", 11 * MIB, MIB, 8)
    session.check()


@scenario
def block_copy(session: Session) -> None:
    """Copy a disk and go on with the copy."""
    session.start()
    session.write("vda", 0, 4 * MIB, 1)
    copy = session.root / "copy.qcow2"
    session.domain.blockCopy(
        "vda",
        f"<disk type='file'><driver type='qcow2'/><source file='{copy}'/></disk>",
        {},
        libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB,
    )
    until(lambda: ready(session))
    session.write("vda", MIB, MIB, 2)
    session.domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    until(lambda: settled(session))
    assert source(session) == copy
    session.write("vda", 6 * MIB, MIB, 3)
    session.check()


@scenario
def block_pull(session: Session) -> None:
    """Stream a chain into its active layer."""
    session.start()
    snapshots(session, "s1", "s2")
    session.domain.blockPull("vda", 0, 0)
    until(lambda: settled(session))
    assert "backing file" not in qemu_img("info", "-U", source(session))
    session.check()


@scenario
def resize(session: Session) -> None:
    """Grow a disk while it is in use."""
    session.start()
    session.domain.blockResize("vda", 2 * SIZE, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    assert session.domain.blockInfo("vda")[0] == 2 * SIZE
    assert f'"virtual-size": {2 * SIZE}' in qemu_img(
        "info", "-U", "--output=json", session.disks["vda"].path
    )


@scenario
def hotplug(session: Session) -> None:
    """Attach a disk, write to it, detach it (QEMU needs a guest that lets it go)."""
    session.start()
    extra = Disk(session.root / "vdc.qcow2", "vdc")
    session.disks["vdc"] = extra
    xml = DISK.format(path=extra.path, dev="vdc")
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


@scenario
def medium(session: Session) -> None:
    """Change and eject the medium of a CD drive."""
    first, second = session.root / "first.iso", session.root / "second.iso"
    first.write_bytes(b"1" * MIB)
    second.write_bytes(b"2" * MIB)
    session.start(CDROM.format(path=first, dev="sda", bus="scsi"))
    session.domain.updateDeviceFlags(CDROM.format(path=second, dev="sda", bus="scsi"))
    assert str(second) in session.domain.XMLDesc()
    assert str(second) in session.hmp("info block")
    empty = CDROM.replace("<source file='{path}'/>", "").format(dev="sda", bus="scsi")
    session.domain.updateDeviceFlags(empty, libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE)
    assert str(second) not in session.domain.XMLDesc()


@scenario
def statistics(session: Session) -> None:
    """Block statistics, job progress and I/O limits."""
    session.start()
    session.write("vda", 0, MIB, 1, "aio_write")  # plain "write" is not accounted
    until(lambda: session.domain.blockStatsFlags("vda")["wr_bytes"])
    stats = session.domain.blockStatsFlags("vda")
    assert stats["wr_bytes"] == MIB, stats
    assert stats["wr_operations"] == 1, stats
    session.domain.setBlockIoTune("vda", {"total_bytes_sec": 5 * MIB, "total_iops_sec": 500})
    tune = session.domain.blockIoTune("vda")
    assert (tune["total_bytes_sec"], tune["total_iops_sec"]) == (5 * MIB, 500), tune
    session.domain.setBlockIoTune("vda", {"total_bytes_sec": 0, "total_iops_sec": 0})
    bulk = session.connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BLOCK)[0][1]
    assert bulk["block.0.wr.bytes"] == MIB, bulk
    assert bulk["block.0.capacity"] == SIZE, bulk


@scenario
def restart(session: Session) -> None:
    """Shut down and start again: the bitmaps are still there and good."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.push(session.root / "full", "c1")
    session.write("vda", MIB, MIB, 2)
    session.domain.destroy()
    assert "c1" in qemu_img("info", session.disks["vda"].path)
    session.domain.create()
    session.write("vda", 2 * MIB, MIB, 3)
    session.push(session.root / "inc", "c2", "c1")
    inc = overlay(session.root / "full/vda.qcow2", session.root / "inc/vda.qcow2")
    assert contents(inc) == session.disks["vda"].contents


@scenario
def suspend(session: Session) -> None:
    """Suspend and resume; what was written is in the image when suspended."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.domain.suspend()
    assert session.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    assert contents(session.disks["vda"].path) == session.disks["vda"].contents
    session.domain.resume()
    assert session.domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING


@scenario
def reconnect(session: Session) -> None:
    """End this libvirt without a word to the emulator; another one finds the domain running."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.push(session.root / "full", "c1")
    os.execv(sys.executable, [sys.executable, *sys.argv[:-1], "reconnected"])


@scenario
def reconnected(session: Session) -> None:
    """The second half of ``reconnect``."""
    session.domain = session.connection.lookupByName("guest")
    assert session.domain.isActive()
    assert session.checkpoints() == ["c1"]
    session.disks["vda"].contents[:MIB] = bytes([1]) * MIB
    session.write("vda", MIB, MIB, 2)
    session.push(session.root / "inc", "c2", "c1")
    inc = overlay(session.root / "full/vda.qcow2", session.root / "inc/vda.qcow2")
    assert contents(inc) == session.disks["vda"].contents


@scenario
def kill(session: Session) -> None:
    """SIGKILL of the emulator: the domain is off, starts again, and a full backup is good."""
    session.start()
    session.write("vda", 0, MIB, 1)
    session.push(session.root / "full", "c1")
    os.kill(int((session.root / "run/qemu/guest.pid").read_text()), signal.SIGKILL)
    until(lambda: not session.domain.isActive())
    session.domain.create()
    session.push(session.root / "again", "c2")
    qemu_img("check", "-U", session.disks["vda"].path)


def main() -> None:
    """Run one scenario in an empty directory."""
    emulator, root, name = sys.argv[1:]
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_serve_events, daemon=True).start()
    session = Session(emulator, Path(root))
    try:
        SCENARIOS[name](session)
    finally:
        if session.domain:
            with contextlib.suppress(libvirt.libvirtError):
                session.domain.destroy()


def _serve_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


if __name__ == "__main__":
    main()
