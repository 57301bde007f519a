"""One libvirt, embedded in this process, and one domain: what the scenarios are made of.

Run by the system's Python, whose package python3-libvirt this needs. Each operation checks that it
has left nothing behind in the emulator.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import libvirt_qemu

MIB = 1 << 20
SIZE = 16 * MIB
TIMEOUT_S = 60
THIRD_SIZE = 64 * MIB
"""Of the disk that can be held: more than what is read at a time."""

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

THIRD_DISK = """
<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name=''>
<host transport='unix' socket='{socket}'/></source><target dev='vdc' bus='virtio'/></disk>
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

    def qmp(self, command: str) -> Any:
        """Return what a command without arguments returns."""
        reply = libvirt_qemu.qemuMonitorCommand(self.domain, json.dumps({"execute": command}), 0)
        return json.loads(reply)["return"]

    def held(self) -> dict[str, list[str]]:
        """Return the names of what the emulator holds, by kind."""
        nodes = self.qmp("query-named-block-nodes")
        return {
            "jobs": sorted(job["id"] for job in self.qmp("query-jobs")),
            "exports": sorted(one["id"] for one in self.qmp("query-block-exports")),
            "nodes": sorted(node["node-name"] for node in nodes),
            "busy bitmaps": [
                f"{node['node-name']}/{bitmap['name']}"
                for node in nodes
                for bitmap in node.get("dirty-bitmaps", [])
                if bitmap["busy"]
            ],
        }

    def bitmaps(self, dev: str) -> dict[str, dict[str, Any]]:
        """Return the bitmaps of the node that a disk is on, by name."""
        path = str(source(self, dev))
        (top,) = (
            node
            for node in self.qmp("query-named-block-nodes")
            if node["file"] == path and node["drv"] == "qcow2"
        )
        return {bitmap["name"]: bitmap for bitmap in top.get("dirty-bitmaps", [])}

    @contextlib.contextmanager
    def leaving_nothing(self) -> Iterator[None]:
        """Check that the emulator holds the same afterwards as before."""
        before = self.held()
        yield
        assert self.held() == before, (before, self.held())

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

    def begin_push(
        self, target: Path, checkpoint: str | None = None, since: str | None = None,
        devs: tuple[str, ...] = ("vda", "vdb"),
    ) -> None:  # fmt: skip
        """Begin a backup into qcow2 files in ``target``."""
        target.mkdir()
        disks = "".join(
            f"<disk name='{dev}' backup='yes' type='file'><driver type='qcow2'/>"
            f"<target file='{target / dev}.qcow2'/></disk>"
            for dev in devs
        )
        incremental = f"<incremental>{since}</incremental>" if since else ""
        self.domain.backupBegin(
            f"<domainbackup mode='push'>{incremental}<disks>{disks}</disks></domainbackup>",
            checkpoint_xml(checkpoint),
        )

    def push(self, target: Path, checkpoint: str | None = None, since: str | None = None) -> int:
        """Back up vda and vdb into qcow2 files in ``target``; return how many bytes were copied."""
        with self.leaving_nothing():
            self.begin_push(target, checkpoint, since)
            until(self.jobs_done)
        return self.succeeded()

    def succeeded(self) -> int:
        """Check that the last backup is complete; return how many bytes it copied."""
        stats = self.domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        assert stats["success"] is True, stats
        assert stats["disk_total"] == stats["disk_processed"], stats
        return stats["disk_total"]

    def checkpoints(self) -> list[str]:
        """Return the names of all checkpoints, sorted."""
        return sorted(c.getName() for c in self.domain.listAllCheckpoints())


def checkpoint_xml(name: str | None) -> str | None:
    """Return the XML of a checkpoint of vda and vdb."""
    disks = "".join(f"<disk name='{dev}' checkpoint='bitmap'/>" for dev in ("vda", "vdb"))
    return (
        name and f"<domaincheckpoint><name>{name}</name><disks>{disks}</disks></domaincheckpoint>"
    )


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


def source(session: Session, dev: str = "vda") -> Path:
    """Return the file that a disk is on now."""
    for disk in ET.fromstring(session.domain.XMLDesc()).iter("disk"):
        if disk.find("target").get("dev") == dev:
            return Path(disk.find("source").get("file"))
    raise AssertionError(dev)


def refused(call: Callable[[], object], text: str) -> None:
    """Check that libvirt refuses a call, and why."""
    message = None
    try:
        call()
    except libvirt.libvirtError as error:
        message = str(error)
    assert message is not None, f"not refused: {text}"
    assert text in message, message


@contextlib.contextmanager
def third_disk(session: Session) -> Iterator[Callable[[str], None]]:
    """Start with a disk ``vdc`` on an NBD server; yield what holds (``p``) and resumes (``r``) it.

    A backup of it does not end as long as its server holds all requests.
    """
    path, control = session.root / "third.sock", session.root / "third.control"
    words = ["nbdkit", "-f", "-U", str(path), "--filter=noextents", "--filter=pause"]
    with subprocess.Popen(
        [*words, "memory", str(THIRD_SIZE), f"pause-control={control}"]
    ) as server:
        try:
            until(path.exists)
            session.start(THIRD_DISK.format(socket=path))
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(control))

                def send(verb: str) -> None:
                    connection.sendall(verb.encode())
                    assert connection.recv(1).decode() == verb.upper()

                yield send
        finally:
            server.kill()  # while it holds requests, it does not end otherwise


SCENARIOS: dict[str, Callable[[Session], None]] = {}


def scenario(function: Callable[[Session], None]) -> Callable[[Session], None]:
    """List a scenario by its name."""
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function
