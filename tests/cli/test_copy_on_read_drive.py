"""``-drive copy-on-read=on``: what is read from the backing file is copied into the image."""

from __future__ import annotations

import json
import subprocess

import pytest
from cli_runs import TIMEOUT
from programs import SYSTEM

QEMU = "qemu-system-x86_64"
BASE = ("-M", "none", "-nodefaults", "-display", "none")
PROGRAMS = [SYSTEM, QEMU]
K = 1024

pytestmark = pytest.mark.qemu


@pytest.fixture
def overlay(image_dir):
    base, overlay = image_dir / "base.qcow2", image_dir / "overlay.qcow2"
    for words in (
        ["qemu-img", "create", "-q", "-f", "qcow2", base, "1M"],
        ["qemu-io", "-c", "write -P 1 0 128k", base],
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay],
    ):
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return overlay


def run(program, drive, said, *words):
    command = [program, *BASE, "-drive", f"if=none,id=d,{drive}", *words]
    return subprocess.run(
        command, input=said, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def copied(overlay):
    """Return how much of the beginning of the image is its own."""
    done = subprocess.run(
        ["qemu-img", "map", "--output", "json", overlay], capture_output=True, text=True, check=True
    )
    first = json.loads(done.stdout)[0]
    subprocess.run(["qemu-img", "check", "-q", overlay], check=True)
    return first["length"] if first["depth"] == 0 else 0


READ = 'qemu-io d "read -P 1 4k 4k"\nqemu-io d "map"\nquit\n'


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("more", "own", "warns"),
    [
        ("copy-on-read=on", 64 * K, False),
        ("copy-on-read=off", 0, False),
        ("copy-on-read=on,readonly=on", 0, True),
        ("copy-on-read=on,media=cdrom", 0, True),
        ("copy-on-read=on,snapshot=on", 0, False),
    ],
)
def test_whole_clusters_that_are_read_are_copied(overlay, program, more, own, warns):
    drive = f"file={overlay},{more}"
    done = run(program, drive, READ, "-monitor", "stdio")
    assert "read 4096/4096 bytes" in done.stdout
    assert copied(overlay) == own
    warning = f"-drive if=none,id=d,{drive}: warning: disabling copy-on-read on read-only drive\n"
    assert done.stderr.partition(": ")[2] == (warning if warns else "")
    in_overlay = "allocated at offset 0 bytes" in done.stdout.replace("not allocated", "")
    assert in_overlay is (bool(own) or "snapshot" in more)


@pytest.mark.parametrize("program", PROGRAMS)
def test_value_that_is_no_switch_is_refused(overlay, program):
    done = run(program, f"file={overlay},copy-on-read=foo", "")
    assert done.stderr.endswith(": Parameter 'copy-on-read' expects 'on' or 'off'\n")
    assert done.returncode == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_image_stays_writable_below_a_snapshot_and_goes_on_copying(overlay, program):
    node = {"driver": "qcow2", "node-name": "n", "file": "x", "read-only": True}
    snapshot = {"device": "d", "snapshot-file": f"{overlay}.new", "snapshot-node-name": "s"}
    commands = [
        ("blockdev-reopen", {"options": [node]}),
        ("blockdev-snapshot-sync", snapshot),
        ("human-monitor-command", {"command-line": 'qemu-io d "read -P 1 0 128k"'}),
        ("quit", {}),
    ]
    said = "".join(
        json.dumps({"execute": name, "arguments": more})
        for name, more in [("qmp_capabilities", {}), *commands]
    )
    drive = f"node-name=n,file={overlay},copy-on-read=on"
    done = run(program, drive, said, "-qmp", "stdio")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    errors = [line["error"]["desc"] for line in lines if "error" in line]
    assert errors == ["Can't set node 'd' to r/o with copy-on-read enabled"]
    assert copied(overlay) == 128 * K
