"""virtnbdbackup on a libvirtd that starts the emulator: what a host does, in one script.

    virtnbdbackup.py start DIR EMULATOR CACHE DISKS    start libvirtd and the domain, if need be
    virtnbdbackup.py full|inc DIR STORE                run virtnbdbackup
    virtnbdbackup.py restore STORE DISK OUT            run virtnbdrestore

libvirtd is one of a session, with all its files in DIR. It refuses that to root, so as root it runs
in a user namespace, in which it is not. Each full backup has a directory of its own in STORE, as
the tool wants it; incremental ones go to the directory of the last full one.

Run by the system's Python, which has Debian's python3-libvirt.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import libvirt

GUEST = "guest"
PATIENCE = 40
"""Seconds that libvirtd has to start, or to notice that the domain has ended."""
SETTLING = 5
"""Seconds that libvirt has to end a backup, which it may also not do: it may be another one's."""
SOCKET = "BLKXACT_PROVE"
"""The variable of the environment by which {emulator} finds the case that it belongs to."""

CONF = """
security_driver = "none"
stdio_handler = "file"
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
    """Return where libvirtd has its files: a short path, as there are sockets in it."""
    return Path(directory, "v")


def uri_of(directory: str) -> str:
    """Return the address of libvirtd."""
    return f"qemu:///session?socket={root_of(directory)}/libvirt/libvirt-sock"


def connect(directory: str) -> libvirt.virConnect | None:
    """Return a connection to libvirtd, if it runs."""
    try:
        return libvirt.open(uri_of(directory))
    except libvirt.libvirtError:
        return None


def start_libvirtd(directory: str, cache: str) -> libvirt.virConnect:
    """Start libvirtd, if it does not run; return a connection."""
    connection = connect(directory)
    if connection is not None:
        return connection
    root = root_of(directory)
    configuration = root / "libvirt"
    configuration.mkdir(parents=True, exist_ok=True)
    (configuration / "qemu.conf").write_text(CONF)
    (configuration / "libvirtd.conf").write_text(f'unix_sock_dir = "{configuration}"\n')
    Path(cache).mkdir(exist_ok=True)  # of what it finds out about the emulator
    names = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME")
    environment = {**os.environ, **dict.fromkeys(names, str(root)), "XDG_CACHE_HOME": cache}
    other = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    with (root / "log").open("a") as log:
        subprocess.Popen(
            [*(other if os.geteuid() == 0 else []), "libvirtd", "--timeout", "300"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + PATIENCE
    while (connection := connect(directory)) is None:
        if time.monotonic() > end:
            raise SystemExit("libvirtd does not start: " + (root / "log").read_text()[-500:])
        time.sleep(0.02)
    return connection


def start(directory: str, emulator: str, cache: str, disks: str) -> int:
    """Start the domain; define it first if it is not."""
    connection = start_libvirtd(directory, cache)
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
    """Run a program of virtnbdbackup; return its exit status."""
    done = subprocess.run([name, "-U", uri, "-n", *map(str, words)], check=False)
    return done.returncode if done.returncode >= 0 else 1


def back_up(level: str, directory: str, store: Path) -> int:
    """Make a backup; a full one that is good becomes the base of the next ones."""
    last = store / "last"
    if level == "full":
        target = Path(tempfile.mkdtemp(prefix="backup-", dir=store))
    else:
        target = store / last.read_text() if last.exists() else store / "nothing"
    words = ("-d", GUEST, "-l", level, "-o", target, "-f", f"{directory}/nbd", "-S", directory)
    status = tool(uri_of(directory), "virtnbdbackup", *words)
    settle(directory)
    if status == 0 and level == "full":
        replace_text(last, target.name)
    return status


def settle(directory: str) -> None:
    """Wait until libvirt has ended the backup, or has noticed that the domain has ended.

    ``abortJob``, with which virtnbdbackup ends, returns before that.
    """
    connection = connect(directory)
    if connection is None:
        return
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
    libvirt.registerErrorHandler(lambda *_: None, None)  # errors are exceptions
    sys.exit(main())
