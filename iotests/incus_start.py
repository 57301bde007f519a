"""What Incus asks of QEMU: its command line, its configuration file and its QMP commands.

Written from the public source of Incus 7.0 (``internal/server/instance/drivers``), with TCG in
place of KVM, and without what needs the host's devices (vsock, tap, virtiofsd).
"""

from __future__ import annotations

import array
import json
import socket
from pathlib import Path
from typing import Any

UUID = "6e1c8f0e-7f0d-4c35-9a52-0f8c1e6a3f10"
SIZE = 8 << 20
TIMEOUT_S = 60

CONFIG = """\
# Machine
[machine]
accel = "tcg"
graphics = "off"
type = "q35"
usb = "off"

[global]
driver = "ICH9-LPC"
property = "disable_s3"
value = "1"

[boot-opts]
strict = "on"

# Memory
[memory]
maxmem = "1024M"
size = "128M"
slots = "8"

# CPU
[smp-opts]
cpus = "1"
maxcpus = "4"

[object "mem0"]
qom-type = "memory-backend-memfd"
share = "on"
size = "128M"

[numa]
memdev = "mem0"
nodeid = "0"
type = "node"

# Qemu control
[chardev "monitor"]
backend = "socket"
path = "{directory}/qemu.monitor"
server = "on"
wait = "off"

# Firmware (read only)
[drive]
file = "{directory}/firmware"
format = "raw"
if = "pflash"
readonly = "on"
unit = "0"

# Firmware settings (writable)
[drive]
file = "{directory}/nvram"
format = "raw"
if = "pflash"
unit = "1"

# Console
[chardev "console"]
backend = "ringbuf"
size = "1048576"

[device "qemu_pcie0"]
addr = "1.0"
bus = "pcie.0"
chassis = "0"
driver = "pcie-root-port"
multifunction = "on"

# Balloon driver
[device "qemu_balloon"]
addr = "00.0"
bus = "qemu_pcie0"
driver = "virtio-balloon-pci"
multifunction = "on"

# Random number generator
[object "qemu_rng"]
filename = "/dev/urandom"
qom-type = "rng-random"

[device "dev-qemu_rng"]
addr = "00.1"
bus = "qemu_pcie0"
driver = "virtio-rng-pci"
rng = "qemu_rng"

# Input
[device "qemu_keyboard"]
addr = "00.2"
bus = "qemu_pcie0"
driver = "virtio-keyboard-pci"

[device "qemu_pcie1"]
addr = "1.1"
bus = "pcie.0"
chassis = "1"
driver = "pcie-root-port"

# SCSI controller
[device "qemu_scsi"]
addr = "00.0"
bus = "qemu_pcie1"
driver = "virtio-scsi-pci"
num_queues = "1"

[device "qemu_pcie2"]
addr = "1.2"
bus = "pcie.0"
chassis = "2"
driver = "pcie-root-port"

# Virtual serial bus
[device "dev-qemu_serial"]
addr = "00.0"
bus = "qemu_pcie2"
driver = "virtio-serial-pci"

# Serial identifier
[chardev "qemu_serial-chardev"]
backend = "ringbuf"
size = "16384B"

[device "qemu_serial"]
bus = "dev-qemu_serial.0"
chardev = "qemu_serial-chardev"
driver = "virtserialport"
name = "org.linuxcontainers.incus"

[device "qemu_pcie3"]
addr = "1.3"
bus = "pcie.0"
chassis = "3"
driver = "pcie-root-port"

# USB controller
[device "qemu_usb"]
addr = "00.0"
bus = "qemu_pcie3"
driver = "qemu-xhci"
p2 = "8"
p3 = "8"

# VM core info driver
[device "qemu_vmcoreinfo"]
driver = "vmcoreinfo"
"""


def probe_words(directory: Path, program: str) -> list[str]:
    """Return how Incus starts the emulator to find out its features."""
    (directory / "probe").touch()  # os.CreateTemp makes a file where the socket will be
    (directory / "firmware").write_bytes(bytes(256 << 10))
    return [
        program, "-S", "-nographic", "-nodefaults", "-no-user-config",
        "-chardev", f"socket,id=monitor,path={directory}/probe,server=on,wait=off",
        "-qmp", "chardev:monitor", "-machine", "q35", "-accel", "tcg",
        "-drive", f"if=pflash,format=raw,readonly=on,file={directory}/firmware",
    ]  # fmt: skip


def start_words(directory: Path, program: str) -> list[str]:
    """Return how Incus starts an instance; write its files."""
    for name in ("firmware", "nvram"):
        (directory / name).write_bytes(bytes(256 << 10))
    (directory / "smbios").write_text("io.systemd.credential:a=b")
    (directory / "qemu.conf").write_text(CONFIG.format(directory=directory))
    return [
        program, "-S", "-name", "v1", "-uuid", UUID, "-daemonize", "-cpu", "qemu64", "-nographic",
        "-serial", "chardev:console", "-qmp", "chardev:monitor", "-nodefaults", "-no-user-config",
        "-readconfig", f"{directory}/qemu.conf", "-pidfile", f"{directory}/qemu.pid",
        "-D", f"{directory}/qemu.log",
        "-smbios", "type=2,manufacturer=LinuxContainers,product=Incus",
        "-smbios", f"type=11,path={directory}/smbios",
    ]  # fmt: skip


class Monitor:
    """A QMP connection that can pass descriptors, and what was answered on it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")
        self.events: list[str] = []
        assert "QMP" in json.loads(self._lines.readline())
        self.run("qmp_capabilities")

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

    def reply(self, name: str, arguments: dict[str, Any] | None = None, fd: int = -1) -> Any:
        """Return the reply to a command, with a descriptor beside it if there is one."""
        request = json.dumps({"execute": name, "id": 7, "arguments": arguments or {}}).encode()
        passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        self._socket.sendmsg([request], [passed] if fd >= 0 else [])
        while True:
            message = json.loads(self._lines.readline())
            if message.get("id") == 7:
                return message
            self.events.append(message["event"])

    def run(self, name: str, arguments: dict[str, Any] | None = None, fd: int = -1) -> Any:
        """Return what a command returns."""
        message = self.reply(name, arguments, fd)
        assert "return" in message, (name, message)
        return message["return"]

    def until_event(self, name: str) -> None:
        """Wait for an event."""
        while name not in self.events:
            self.events.append(json.loads(self._lines.readline())["event"])
