"""Trays and media: the same script for QEMU and for blkxact gives the same replies and events."""

import json
import subprocess
import sys

import pytest

MACHINE = ("-machine", "pc", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio")
PROGRAMS = {
    "qemu": ("qemu-system-x86_64", "-accel", "tcg", *MACHINE),
    "blkxact": (sys.executable, "-m", "blkxact", "system", *MACHINE),
}
DEVICES = {
    "ide-cd": ["-device", "ide-cd,id=d"],
    "scsi-cd": ["-device", "virtio-scsi-pci", "-device", "scsi-cd,id=d"],
    "floppy": ["-device", "floppy,id=d"],
    "removable scsi-hd": [
        *("-blockdev", "raw,node-name=n,file.driver=file,file.filename=n.img"),
        *("-device", "virtio-scsi-pci"),
        *("-device", "scsi-hd,id=d,drive=n,removable=on"),
    ],
    "scsi-hd": [
        *("-blockdev", "raw,node-name=n,file.driver=file,file.filename=n.img"),
        *("-device", "virtio-scsi-pci"),
        *("-device", "scsi-hd,id=d,drive=n"),
    ],
    "no device": [],
}
SHOWN = ("ro", "drv", "file", "detect_zeroes")


def open_raw(name):
    file = {"driver": "file", "filename": f"{name}.img"}
    options = {"driver": "raw", "node-name": name, "read-only": True, "file": file}
    return "blockdev-add", options


def change(filename, **more):
    return "blockdev-change-medium", {"id": "d", "filename": filename, **more}


NAMED = {"id": "d"}
SCRIPT = [
    change("c.img", format="raw"),
    ("query-block", {}),
    open_raw("a"),
    open_raw("b"),
    ("query-block", {}),
    ("blockdev-remove-medium", NAMED),
    ("blockdev-insert-medium", {"id": "d", "node-name": "a"}),
    ("blockdev-open-tray", NAMED),
    ("blockdev-open-tray", NAMED),
    ("blockdev-remove-medium", NAMED),
    ("blockdev-insert-medium", {"id": "d", "node-name": "nope"}),
    ("blockdev-insert-medium", {"id": "d", "node-name": "a"}),
    ("blockdev-insert-medium", {"id": "d", "node-name": "a"}),
    ("blockdev-insert-medium", {"id": "d", "node-name": "b"}),
    ("query-block", {}),
    ("blockdev-close-tray", NAMED),
    ("blockdev-close-tray", NAMED),
    ("blockdev-remove-medium", NAMED),
    ("blockdev-open-tray", {"id": "d", "force": True}),
    ("blockdev-remove-medium", NAMED),
    ("blockdev-remove-medium", NAMED),
    change("c.img", format="raw"),
    ("query-block", {}),
    ("blockdev-close-tray", NAMED),
    ("query-block", {}),
    change("c.img", format="raw", **{"read-only-mode": "read-only"}),
    ("query-block", {}),
    change("nope.img"),
    change("c.img", format="qcow2"),
    change("c.img", format="nope"),
    change("b.img", format="raw"),
    ("query-block", {}),
    ("eject", NAMED),
    ("eject", NAMED),
    ("query-block", {}),
    change("c.img", format="raw", **{"read-only-mode": "read-write"}),
    ("query-block", {}),
    ("eject", NAMED),
    change("b.img", format="raw"),
    ("query-block", {}),
    ("blockdev-change-medium", {"filename": "c.img"}),
    ("blockdev-change-medium", {"device": "nope", "filename": "c.img"}),
    ("blockdev-change-medium", {"id": "d", "filename": "c.img", "read-only-mode": "x"}),
    ("blockdev-open-tray", {}),
    ("blockdev-open-tray", {"id": "nope"}),
    ("blockdev-close-tray", {"device": "x", "id": "x"}),
    ("blockdev-remove-medium", {"id": "nope"}),
    ("blockdev-insert-medium", {"id": "nope", "node-name": "a"}),
    ("eject", {"device": "nope"}),
]


@pytest.mark.qemu
@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_media_of_a_device_change_as_in_qemu(image_dir, device):
    for name in "abcn":
        (image_dir / f"{name}.img").write_bytes(bytes(1 << 20))
    theirs, ours = (replies(image_dir, [*program, *device]) for program in PROGRAMS.values())
    assert len(theirs) > len(SCRIPT)
    assert ours == theirs


def replies(directory, program):
    """Return all replies and events of the script, but for the end."""
    requests = [("qmp_capabilities", {}), *SCRIPT, ("quit", {})]
    lines = (json.dumps({"execute": name, "arguments": words}) for name, words in requests)
    done = subprocess.run(
        program,
        input="\n".join(lines),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [shown(message) for message in messages[1:] if message.get("event") != "SHUTDOWN"]


def shown(message):
    message.pop("timestamp", None)
    for info in message["return"] if isinstance(message.get("return"), list) else []:
        if "inserted" in info:
            info["inserted"] = {name: info["inserted"][name] for name in SHOWN}
    return message
