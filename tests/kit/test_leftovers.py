"""What the fixture says of a test that leaves something behind, and how it stays out of the way."""

from __future__ import annotations

import re
import subprocess
import sys

from .processes import runs

pytest_plugins = "pytester"

OPTIONS = ("-p", "no:asyncio", "-p", "no:cacheprovider")

SAMPLE = """
import subprocess

import pytest

ALLOWED = ["node", "job", "busy bitmap", "transaction"]


def start_backup(blkxact):
    blkxact.disk("vda", size="8M")
    blkxact.guest.write("vda", 0, b"x" * (8 << 20))
    blkxact.execute("block-dirty-bitmap-add", node="vda", name="b0")
    blkxact.guest.write("vda", 0, b"x" * (8 << 20))
    blkxact.execute(
        "blockdev-add", driver="null-co", node_name="t0", size=8 << 20, read_zeroes=True
    )
    blkxact.execute(
        "blockdev-backup", device="vda", target="t0", job_id="j0", sync="bitmap", bitmap="b0",
        bitmap_mode="on-success", speed=1,
    )


def test_node(blkxact):
    blkxact.execute("blockdev-add", driver="null-co", node_name="n0")


def test_device(blkxact):
    blkxact.execute("blockdev-add", driver="null-co", node_name="n1")
    blkxact.execute("device_add", driver="virtio-blk-pci", id="d0", drive="n1")


def test_export(blkxact):
    blkxact.disk("vda")
    path = blkxact.qmp + ".nbd"
    blkxact.execute("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
    blkxact.execute("block-export-add", type="nbd", id="e0", node_name="vda")


def test_job(blkxact):
    start_backup(blkxact)


@pytest.mark.blkxact(leftovers=ALLOWED)
def test_allowed(blkxact):
    start_backup(blkxact)


def test_failed(blkxact):
    start_backup(blkxact)
    assert False, "of itself"


def test_process(blkxact):
    program = blkxact.system() / "qemu-storage-daemon"
    subprocess.Popen([program, "--chardev", f"socket,id=c,path={blkxact.qmp}2,server=on,wait=off"])


def test_image(blkxact):
    path = blkxact.disk("vdx", size="1M").path
    blkxact.guest.write("vdx", 0, b"x" * 65536)
    blkxact.stop()
    with path.open("r+b") as file:
        file.seek(2 * 65536)
        file.write(bytes(65536))
"""


def test_things_that_are_left_behind_fail_the_test_with_their_names(pytester):
    pytester.makepyfile(SAMPLE)
    result = pytester.runpytest_subprocess(*OPTIONS, "--strict-markers")
    result.assert_outcomes(passed=7, failed=1, errors=6)
    text = result.stdout.str()
    for line in (
        "node 'n0' is left behind (driver null-co, at n0)",
        "device 'd0' is left behind",
        "export 'e0' is left behind",
        "job 'j0' is left behind (status running)",
        "busy bitmap 'vda/b0' is left behind",
        "node 't0' is left behind (driver null-co, at t0)",
    ):
        assert f"  - {line}\n" in text
    assert "vdx.qcow2 is corrupt: " in text
    [process] = set(re.findall(r"process (\d+) is left behind \(qemu-storage-daemon\)", text))
    assert not runs(int(process))
    assert "\nE       AssertionError: of itself\n" in text


LEAKS = """
import pytest


@pytest.fixture(autouse=True)
def leak(monkeypatch, request):
    async def leave_open(_self):
        pass

    monkeypatch.setattr(request.param, leave_open)


@pytest.mark.parametrize("leak", ["blkxact.storage.os_file.OsFile.close"], indirect=True)
def test_file(blkxact):
    blkxact.disk("vda", size="1M")


@pytest.mark.parametrize("leak", ["blkxact.qmp_server.QmpServer.close"], indirect=True)
def test_socket(blkxact):
    pass
"""


def test_descriptor_that_the_emulator_itself_leaves_open_fails_the_test(pytester):
    pytester.makepyfile(LEAKS)
    result = pytester.runpytest_subprocess(*OPTIONS, "-W", "ignore")
    result.assert_outcomes(passed=2, errors=2)
    after = "*after the emulator's end "
    result.stdout.fnmatch_lines(
        [f"{after}a descriptor of */vda.qcow2 is open", f"{after}1 sockets are open"]
    )


def test_plugin_loads_nothing_of_blkxact_in_a_project_that_does_not_use_it(pytester):
    pytester.makepyfile(
        "import sys\n"
        "def test_it():\n"
        "    print(sorted(name for name in sys.modules if name.startswith('blkxact')))\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", *OPTIONS],
        cwd=pytester.path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        "['blkxact', 'blkxact.kit', 'blkxact.kit.pytest_plugin',"
        " 'blkxact.testing', 'blkxact.testing.pytest_plugin']"
    ) in result.stdout
