"""What a daemon gives up when all is made: ``-chroot``, ``-runas`` and ``-run-with``."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import TIMEOUT
from programs import SYSTEM, connected

from blkxact.cli.errors import CliError
from blkxact.cli.system_line import CommandLine

BASE = ("-M", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio")
NOBODY = 65534

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do that")


def run(words: list[str], *commands: tuple[str, dict]) -> tuple[list[dict], str, int]:
    """Return the replies to commands, what was reported, and the exit status."""
    steps = [("qmp_capabilities", {}), *commands, ("quit", {})]
    said = b"".join(json.dumps({"execute": n, "arguments": a}).encode() for n, a in steps)
    command = [SYSTEM, *BASE, *words]
    done = subprocess.run(command, input=said, capture_output=True, timeout=TIMEOUT, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(b"{")]
    replies = [json.loads(line) for line in lines]
    replies = [one for one in replies if "return" in one or "error" in one]
    return replies, done.stderr.decode(), done.returncode


@is_root
@pytest.mark.parametrize(
    "words",
    [
        ["-chroot", "{}"],
        ["-chroot", "{}", "-runas", f"{NOBODY}:{NOBODY}"],
        ["-emulate", "10.0", "-run-with", f"chroot={{}},user={NOBODY}:{NOBODY}"],
        ["-emulate", "8.2", "-run-with", "chroot={},async-teardown=on"],
    ],
)
def test_daemon_works_in_another_root(image_dir, words):
    image_dir.chmod(0o777)
    words = [word.format(image_dir) for word in words]
    listen = {"addr": {"type": "unix", "data": {"path": "/nbd"}}}
    replies, reported, status = run(
        words,
        ("blockdev-add", {"driver": "null-co", "node-name": "n", "size": 1 << 20}),
        ("blockdev-snapshot-sync",
         {"node-name": "n", "snapshot-file": "/a.qcow2", "snapshot-node-name": "a"}),
        ("blockdev-add", {"driver": "blkdebug", "node-name": "r", "image": {
            "driver": "copy-on-read", "file": {"driver": "null-aio"}}}),
        ("human-monitor-command", {"command-line": "info block"}),
        ("human-monitor-command", {"command-line": 'qemu-io a "write 0 64k"'}),
        ("object-add", {"qom-type": "throttle-group", "id": "t"}),
        ("nbd-server-start", listen),
        ("query-qmp-schema", {}),
        ("query-block-jobs", {}),
    )  # fmt: skip
    assert [one for one in replies if "error" in one] == []
    assert (reported, status) == ("", 0)
    made = (image_dir / "a.qcow2").stat()
    user = NOBODY if any(str(NOBODY) in word for word in words) else 0
    assert (made.st_uid, made.st_gid) == (user, user)
    assert (image_dir / "nbd").exists()


@is_root
def test_root_that_is_not_there_ends_the_start():
    replies, reported, status = run(["-chroot", "/nonexistent"])
    assert (replies, reported.partition(": ")[2], status) == ([], "chroot failed\n", 1)


@is_root
def test_daemonized_daemon_has_another_root(image_dir):
    pidfile = image_dir / "pid"
    words = ["-chroot", str(image_dir), "-daemonize", "-pidfile", str(pidfile)]
    command = [SYSTEM, *BASE[:-2], *words]
    subprocess.run(command, check=True, timeout=TIMEOUT)
    pid = int(pidfile.read_text())
    ended = os.pidfd_open(pid)
    assert Path(f"/proc/{pid}/root").readlink() == image_dir
    os.kill(pid, signal.SIGTERM)
    assert select.select([ended], [], [], TIMEOUT)[0], "it does not end"
    os.close(ended)


MISSING = """
import ast, importlib, importlib.util, sys
from pathlib import Path
from blkxact.runtime import start
start.load_lazily()
from blkxact.cli.privileges import load_everything
load_everything()

def lazily_imported(name, module):
    tree = ast.parse(Path(module.__file__).read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in (inner for function in functions for inner in ast.walk(function)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, module.__package__)
            yield base
            package = next(iter(getattr(sys.modules.get(base), "__path__", ())), None)
            for alias in node.names:
                if package and Path(package, f"{alias.name}.py").exists():
                    yield f"{base}.{alias.name}"

ours = [(n, m) for n, m in list(sys.modules.items()) if n.startswith("blkxact")]
names = {one for n, m in ours if not n.startswith("blkxact.cli") for one in lazily_imported(n, m)}
print(*sorted(names - sys.modules.keys()))
print(*(n for n in start.LAZY_MODULES if type(sys.modules[n]).__name__ == "_Later"))
"""


def test_nothing_is_left_to_load_when_the_rights_are_given_up():
    command = [sys.executable, "-c", MISSING]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT)
    missing, later = done.stdout.split("\n")[:2]
    assert set(missing.split()) <= {"backports", "backports.zstd", "compression"}
    assert not later


@pytest.mark.parametrize(
    ("release", "words", "message"),
    [
        ("7.2", "-run-with user=root", "-run-with: invalid option"),
        ("8.2", "-run-with user=root", "-run-with user=root: Invalid parameter 'user'"),
        ("10.0", "-chroot /", "-chroot: invalid option"),
        ("10.0", "-runas root", "-runas: invalid option"),
        ("10.0", "-async-teardown", "-async-teardown: invalid option"),
        ("10.0", "-run-with user=zzz",
         '-run-with user=zzz: User "user=zzz" doesn\'t exist (and is not <uid>:<gid>)'),
        ("10.0", "-run-with async-teardown=x",
         "-run-with async-teardown=x: Parameter 'async-teardown' expects 'on' or 'off'"),
        ("10.0", "-run-with exit-with-parent=on",
         "-run-with exit-with-parent=on: Invalid parameter 'exit-with-parent'"),
    ],
)  # fmt: skip
def test_options_are_refused_as_the_release_does(release, words, message):
    with pytest.raises(CliError) as caught:
        CommandLine("qemu", "qemu").parse(["-emulate", release, *words.split()])
    assert str(caught.value) == message


def test_newest_release_ends_with_its_parent_if_asked():
    line = CommandLine("qemu", "qemu")
    options = line.parse(["-emulate", "11.1", "-run-with", "exit-with-parent=on,user=root"])
    assert options.exits_with_parent
    assert options.run_as == "root"


def test_program_ends_when_its_parent_does(image_dir):
    """The parent is a shell that is killed; the program's output is a pipe, which ends with it."""
    words = [*BASE[:-2], "-emulate", "11.1", "-run-with", "exit-with-parent=on"]
    words += ["-qmp", f"unix:{image_dir}/qmp,server=on,wait=off"]
    shell = subprocess.Popen(
        ["/bin/sh", "-c", '"$0" "$@" & echo ready; wait', SYSTEM, *words], stdout=subprocess.PIPE
    )
    with connected(image_dir / "qmp") as client:
        client.settimeout(TIMEOUT)
        assert b"QMP" in client.recv(4096)
        shell.kill()
        while client.recv(4096):
            pass
    assert shell.stdout.read() == b"ready\n"
    shell.stdout.close()
    shell.wait(TIMEOUT)
