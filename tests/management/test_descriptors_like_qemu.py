"""File descriptors over a real socket: the same script for QEMU and for blkxact."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

MACHINE = ["-machine", "none", "-nodefaults", "-display", "none"]
PROGRAMS = {
    "blkxact": [sys.executable, "-m", "blkxact", "system", *MACHINE],
    "qemu": ["qemu-system-x86_64", *MACHINE],
}
TIMEOUT_S = 60


class Monitor:
    """A program that connects to us; a request may carry files."""

    def __init__(self, directory, program):
        path = str(directory / "monitor")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            listener.settimeout(TIMEOUT_S)
            self.process = subprocess.Popen([*program, "-qmp", f"unix:{path}"])
            self.socket, _ = listener.accept()
        Path(path).unlink()
        self.socket.settimeout(TIMEOUT_S)
        self.lines = self.socket.makefile("rb")
        self.lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, *files, **arguments):
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        message = json.dumps({"execute": command, "arguments": words}).encode()
        fds = [file.fileno() for file in files]
        if fds:
            socket.send_fds(self.socket, [message], fds)
        else:
            self.socket.sendall(message)
        while True:
            reply = json.loads(self.lines.readline())
            if "event" not in reply:
                return reply.get("return", reply.get("error"))

    def close(self):
        self.execute("quit")
        self.lines.close()
        self.socket.close()
        assert self.process.wait(TIMEOUT_S) == 0


@pytest.fixture(params=[pytest.param("qemu", marks=pytest.mark.qemu), "blkxact"])
def monitor(request, image_dir):
    opened = Monitor(image_dir, PROGRAMS[request.param])
    yield opened
    opened.close()


def test_node_is_opened_from_a_set_and_holds_it(monitor, image_dir):
    image = image_dir / "a.img"
    image.write_bytes(bytes(1 << 20))
    with image.open("rb") as readable, image.open("r+b") as writable:
        added = monitor.execute("add-fd", readable, fdset_id=4, opaque="r")
        assert added.keys() == {"fdset-id", "fd"}
        assert added["fdset-id"] == 4
        assert add_node(monitor) == refusal(
            "Could not dup FD for /dev/fdset/4 flags 2: Permission denied"
        )
        assert monitor.execute("add-fd", writable, fdset_id=4)["fdset-id"] == 4
    assert add_node(monitor) == {}
    assert shown(monitor) == [{"fdset-id": 4, "fds": ["r", None]}]
    monitor.execute("human-monitor-command", command_line='qemu-io disk "write -P 7 0 512"')
    assert image.read_bytes()[:512] == b"\7" * 512
    assert monitor.execute("remove-fd", fdset_id=4) == {}
    assert shown(monitor) == [{"fdset-id": 4, "fds": []}]
    assert monitor.execute("blockdev-del", node_name="disk") == {}
    assert shown(monitor) == []


def test_sets_are_numbered_and_shown_as_in_qemu(monitor, image_dir):
    with (image_dir / "a").open("wb") as file:
        for number in (None, 3, None):
            wanted = {} if number is None else {"fdset_id": number}
            monitor.execute("add-fd", file, **wanted)
    assert [found["fdset-id"] for found in shown(monitor)] == [3, 1, 0]
    assert monitor.execute("remove-fd", fdset_id=1) == {}
    assert monitor.execute("remove-fd", fdset_id=1) == refusal(
        "File descriptor named 'fdset-id:1' not found"
    )


def test_named_descriptor_can_be_closed_once(monitor, image_dir):
    with (image_dir / "a").open("wb") as file, (image_dir / "b").open("wb") as other:
        assert monitor.execute("getfd", file, other, fdname="x") == {}
        assert monitor.execute("getfd", fdname="y") == refusal(
            "No file descriptor supplied via SCM_RIGHTS"
        )
        assert monitor.execute("getfd", file, fdname="1") == refusal(
            "Parameter 'fdname' expects a name not starting with a digit"
        )
    assert monitor.execute("closefd", fdname="x") == {}
    assert monitor.execute("closefd", fdname="x") == refusal("File descriptor named 'x' not found")


def add_node(monitor):
    file = {"driver": "file", "filename": "/dev/fdset/4", "node-name": "disk"}
    return monitor.execute("blockdev-add", **file)


def shown(monitor):
    """Return the sets with what says something about the descriptors besides their numbers."""
    return [
        {**found, "fds": [one.get("opaque") for one in found["fds"]]}
        for found in monitor.execute("query-fdsets")
    ]


def refusal(desc):
    return {"class": "GenericError", "desc": desc}
