"""virtnbdbackup on a libvirt that starts the emulator: what a host does, in one script.

    virtnbdbackup.py start DIR EMULATOR CACHE DISKS    define the domain, and start it
    virtnbdbackup.py full|inc DIR STORE                run virtnbdbackup
    virtnbdbackup.py restore STORE DISK OUT            run virtnbdrestore

libvirt is embedded in this process (``qemu:///embed``), so no daemon has to run; its files are in
DIR. virtnbdbackup and virtnbdrestore are run as they are, in this process, which serves libvirt's
events. Each full backup has a directory of its own in STORE, as the tool wants it; incremental ones
go to the directory of the last full one.

Run by the system's Python, which has Debian's python3-libvirt.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import libvirt

GUEST = "guest"
PATIENCE = 40
"""Seconds that libvirt has to notice that the domain has ended."""
SETTLING = 5
"""Seconds that libvirt has to end a backup, which it may also not do: it may be another one's."""
SOCKET = "BLKXACT_PROVE"
"""The variable of the environment by which {emulator} finds the case that it belongs to."""

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
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{guest}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><emulator>{emulator}</emulator>{disks}
<controller type='usb' model='none'/><memballoon model='none'/></devices>
<qemu:commandline><qemu:env name='{variable}' value={socket}/></qemu:commandline>
</domain>
"""

DISK = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
<source file={path}/><target dev='{name}' bus='virtio'/></disk>
"""


def root_of(directory: str) -> Path:
    """Return where libvirt has its files."""
    return Path(directory, "libvirt")


def uri_of(directory: str) -> str:
    """Return the address of the embedded libvirt."""
    return f"qemu:///embed?root={root_of(directory)}"


def serve_events() -> None:
    """Serve libvirt's events for as long as the process runs."""

    def serve() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    libvirt.virEventRegisterDefaultImpl()
    libvirt.registerErrorHandler(lambda *_: None, None)
    threading.Thread(target=serve, daemon=True).start()


def start(directory: str, emulator: str, cache: str, disks: str) -> int:
    """Define the domain if it is not, and start it."""
    root = root_of(directory)
    if not root.exists():
        (root / "etc").mkdir(parents=True)
        (root / "etc/qemu.conf").write_text(CONF)
        Path(cache).mkdir(exist_ok=True)
        (root / "cache").symlink_to(cache)  # what libvirt finds out about the emulator
    serve_events()
    connection = libvirt.open(uri_of(directory))
    try:
        domain = connection.lookupByName(GUEST)
    except libvirt.libvirtError:
        domain = connection.defineXML(describe(directory, emulator, disks))
    end = time.monotonic() + PATIENCE
    while domain.isActive() and time.monotonic() < end:
        time.sleep(0.02)  # libvirt is about to notice that the last one has ended
    domain.create()
    return 0


def describe(directory: str, emulator: str, disks: str) -> str:
    """Return the XML of the domain."""
    return DOMAIN.format(
        guest=GUEST,
        emulator=escape(emulator),
        disks="".join(
            DISK.format(name=name, path=quoteattr(f"{directory}/{name}.qcow2"))
            for name in disks.split(",")
        ),
        variable=SOCKET,
        socket=quoteattr(os.environ.get(SOCKET, "")),
    )


def tool(uri: str, name: str, *words: object) -> int:
    """Run a program of virtnbdbackup in this process; return its exit status."""
    sys.argv = [f"/usr/bin/{name}", "-U", uri, "-n", *map(str, words)]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def back_up(level: str, directory: str, store: Path) -> int:
    """Make a backup; a full one that is good becomes the base of the next ones."""
    serve_events()
    connection = libvirt.open(uri_of(directory))
    last = store / "last"
    if level == "full":
        target = Path(tempfile.mkdtemp(prefix="backup-", dir=store))
    else:
        target = store / last.read_text() if last.exists() else store / "nothing"
    words = ("-d", GUEST, "-l", level, "-o", target, "-f", f"{directory}/nbd", "-S", directory)
    status = tool(uri_of(directory), "virtnbdbackup", *words)
    settle(connection)
    if status == 0 and level == "full":
        replace_text(last, target.name)
    return status


def settle(connection: libvirt.virConnect) -> None:
    """Wait until libvirt has ended the backup, or has noticed that the domain has ended.

    ``abortJob`` returns before that. A libvirtd goes on running and needs no waiting. An embedded
    libvirt would end here, and find a backup in its records the next time that never ends.
    """
    domain = connection.lookupByName(GUEST)
    end = time.monotonic() + SETTLING
    while domain.isActive() and time.monotonic() < end:
        try:
            if domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE:
                domain.blockStats("")  # asks the emulator, if it has not ended
                return
        except libvirt.libvirtError:
            pass
        time.sleep(0.02)


def replace_text(path: Path, text: str) -> None:
    """Replace a file; it is durable then."""
    new = path.with_suffix(".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def restore(store: Path, disk: str, out: str) -> int:
    """Write a disk of the last backup to a raw file."""
    with tempfile.TemporaryDirectory() as scratch:
        words = ("-i", store / (store / "last").read_text(), "-o", f"{scratch}/out", "-d", disk)
        status = tool("test:///default", "virtnbdrestore", *words, "-f", f"{scratch}/nbd")
        if status == 0:
            image = f"{scratch}/out/{disk}.qcow2"
            await_end_of_writer(image)
            words = ("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, out)
            status = subprocess.run(words, check=False).returncode
    return status


def await_end_of_writer(image: str) -> None:
    """Wait for the qemu-nbd that virtnbdrestore writes through: it ends, but is not waited for."""
    end = time.monotonic() + PATIENCE
    words = ("qemu-img", "info", image)
    while time.monotonic() < end:
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if "lock" not in done.stderr:
            break
        time.sleep(0.05)


def main() -> int:
    """Return the exit status."""
    verb, *words = sys.argv[1:]
    if verb == "start":
        return start(*words)
    if verb == "restore":
        return restore(Path(words[0]), *words[1:])
    return back_up(verb, words[0], Path(words[1]))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # libvirt's thread of events never ends
