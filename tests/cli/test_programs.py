"""The programs that stand in for QEMU's, as processes: what a client that starts them sees."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from cli_runs import TIMEOUT, blkxact, wait_until_gone
from programs import QUIET, STORAGE_DAEMON, SYSTEM, Qmp, connected, run, started

NO_FILE = "No such file or directory"
NO_PIDFILE = "cannot create PID file: Could not create"
NO_NODE = "Cannot find device='' nor node-name='b'"


def test_version_is_printed_in_the_layout_of_qemu():
    done = run(SYSTEM, "--version")
    assert done.stdout.startswith("QEMU emulator version 7.2.")
    assert done.stdout.count("\n") == 2
    done = run(STORAGE_DAEMON, "-V")
    assert done.stdout.startswith("qemu-storage-daemon version 7.2.")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--chardev", "help"], "Available chardev backend types: "),
        (["--object", "help"], "List of user creatable objects:"),
    ],
)
def test_storage_daemon_lists_what_can_be_made(words, line):
    done = run(STORAGE_DAEMON, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == line


def test_descriptor_of_the_command_line_is_in_its_set(tmp_path):
    (tmp_path / "image").write_bytes(bytes(4096))
    fd = os.open(tmp_path / "image", os.O_RDWR)
    node = "driver=file,node-name=n,filename=/dev/fdset/7"
    words = ["-add-fd", f"fd={fd},set=7,opaque=x", "-blockdev", node, "-qmp", "stdio"]
    with started(SYSTEM, *QUIET, *words, stdin=subprocess.PIPE, pass_fds=[fd]) as p:
        asked = b'{"execute":"qmp_capabilities"}{"execute":"query-fdsets"}{"execute":"quit"}'
        out, err = p.communicate(asked, TIMEOUT)
    os.close(fd)
    assert (p.returncode, err) == (0, b"")
    (fdset,) = json.loads(out.splitlines()[2])["return"]
    assert (fdset["fdset-id"], fdset["fds"][0]["opaque"]) == (7, "x")
    done = run(SYSTEM, *QUIET, "-add-fd", "fd=99,set=1")
    assert done.stderr == (
        "blkxact-system-x86_64: -add-fd fd=99,set=1: fd is not valid or already in use\n"
    )


@pytest.mark.parametrize(
    ("program", "words", "line"),
    [
        (SYSTEM, ["-foo"], "blkxact-system-x86_64: -foo: invalid option"),
        (SYSTEM, [*QUIET, "-mon", "chardev=x"],
         'blkxact-system-x86_64: -mon chardev=x: chardev "x" not found'),
        (SYSTEM, [*QUIET, "/nowhere.img"],
         f"blkxact-system-x86_64: /nowhere.img: Could not open '/nowhere.img': {NO_FILE}"),
        (SYSTEM, [*QUIET, "-pidfile", "/nowhere/x"],
         f"blkxact-system-x86_64: {NO_PIDFILE} '/nowhere/x': {NO_FILE}"),
        (STORAGE_DAEMON, ["--foo"], "blkxact-storage-daemon: unrecognized option '--foo'"),
        (STORAGE_DAEMON, ["--export", "nbd,id=a,node-name=b"],
         f"blkxact-storage-daemon: --export nbd,id=a,node-name=b: {NO_NODE}"),
        (STORAGE_DAEMON, ["--monitor", "x", "--chardev", "stdio,id=x"],
         'blkxact-storage-daemon: --monitor x: chardev "x" not found'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("daemonize", [False, True])
def test_bad_words_are_refused_with_status_1(program, words, line, daemonize):
    background = ["--daemonize"] if daemonize else []
    done = run(program, *background, *words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line + "\n")


def test_daemonize_returns_when_libvirt_can_connect(image_dir):
    path, pidfile = image_dir / "qmp", image_dir / "pid"
    done = run(
        SYSTEM, "-S", "-no-user-config", "-nodefaults", "-nographic",
        "-machine", "none,accel=kvm:tcg", "-qmp", f"unix:{path},server=on,wait=off",
        "-pidfile", pidfile, "-daemonize",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(pidfile.read_text())
    qmp = Qmp(connected(path))
    assert qmp.greeting["version"]["qemu"]["major"] == 7
    assert qmp.run("query-status")["status"] == "prelaunch"
    qmp.run("cont")
    qmp.run("stop")
    assert qmp.run("query-status")["status"] == "paused"
    os.kill(pid, signal.SIGTERM)
    event = qmp.read()
    assert (event["event"], event["data"]) == (
        "SHUTDOWN", {"guest": False, "reason": "host-signal"},
    )  # fmt: skip
    assert qmp.read() is None
    qmp.close()
    wait_until_gone(pidfile)
    assert not path.exists()


def test_daemonize_that_fails_leaves_nothing_running_and_no_socket(image_dir):
    path, pidfile = image_dir / "qmp", image_dir / "pid"
    done = run(
        SYSTEM, *QUIET, "-daemonize", "-pidfile", pidfile,
        "-qmp", f"unix:{path},server=on,wait=off", "-device", "scsi-hd,drive=x",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "blkxact-system-x86_64: -device scsi-hd,drive=x: "
        "Property 'scsi-hd.drive' can't find value 'x'\n"
    )
    wait_until_gone(pidfile)
    assert not path.exists()


def test_wait_on_opens_nothing_before_the_first_client(image_dir):
    path = image_dir / "qmp"
    chardev = f"unix:{path},server=on,wait=on"
    with started(
        SYSTEM, *QUIET, "-qmp", chardev, "-blockdev", "file,filename=/no,node-name=a"
    ) as p:
        line = p.stderr.readline().decode()
        assert line == (
            f"blkxact-system-x86_64: -qmp {chardev}: info: QEMU waiting for connection on: "
            f"disconnected:unix:{path},server=on\n"
        )
        assert p.poll() is None
        with connected(path) as client:
            assert client.recv(1) == b""
        assert p.wait(TIMEOUT) == 1
        assert (
            p.stderr.read().decode().endswith("Could not open '/no': No such file or directory\n")
        )
    assert not path.exists()


def test_signal_ends_a_start_that_waits_for_a_client(image_dir):
    path = image_dir / "qmp"
    with started(SYSTEM, *QUIET, "-qmp", f"unix:{path},server=on") as p:
        assert b"waiting for connection" in p.stderr.readline()
        p.send_signal(signal.SIGTERM)
        assert p.wait(TIMEOUT) == 0
    assert not path.exists()


def test_monitor_on_a_descriptor_that_already_listens(image_dir):
    path = image_dir / "qmp"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        words = ["-chardev", f"socket,id=m,fd={fd},server=on,wait=off", "-mon", "m,mode=control"]
        with started(SYSTEM, *QUIET, *words, pass_fds=[fd]) as p:
            for _ in range(2):
                qmp = Qmp(connected(path))
                assert qmp.run("query-status")["status"] == "running"
                qmp.close()
            p.terminate()
            assert p.wait(TIMEOUT) == 0


def test_human_monitor_on_a_socket(image_dir):
    path = image_dir / "hmp"
    with started(SYSTEM, *QUIET, "-S", "-monitor", f"unix:{path},server=on,wait=off") as p:
        with connected(path) as client:
            received = b""
            client.sendall(b"info status\nfoo\nquit\n")
            while data := client.recv(4096):
                received += data
        assert received.startswith(b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(q")
        assert b"info status\x1b[K\r\nVM status: paused (prelaunch)\r\n(qemu) " in received
        assert b"foo\x1b[K\r\nunknown command: 'foo'\r\n(qemu) " in received
        assert received.endswith(b"quit\x1b[K\r\n")
        assert p.wait(TIMEOUT) == 0


def test_human_monitor_on_standard_input():
    with started(SYSTEM, *QUIET, "-monitor", "stdio", stdin=subprocess.PIPE) as p:
        out, err = p.communicate(b"info name\nquit\n", TIMEOUT)
        assert (p.returncode, err) == (0, b"")
    assert out.endswith(b"info name\x1b[K\r\n(qemu) q\x1b[K\x1b[Dqu\x1b[K\x1b[D\x1b[Dqui\x1b[K"
                        b"\x1b[D\x1b[D\x1b[Dquit\x1b[K\r\n")  # fmt: skip


@pytest.mark.qemu
def test_human_monitor_shows_what_qemu_shows():
    lines = b"info status\rinfo nax\x7fme\n\nfoo\nstop\nc\ninfo status\nabc\x1b[D\x1b[DX\nquit\n"
    outputs = []
    for program in (shutil.which("qemu-system-x86_64"), SYSTEM):
        with started(program, *QUIET[:-2], "-S", "-monitor", "stdio", stdin=subprocess.PIPE) as p:
            out, _ = p.communicate(lines, TIMEOUT)
        outputs.append(out)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("program", [SYSTEM, STORAGE_DAEMON])
def test_foreign_environment_does_not_disturb(program, tmp_path):
    """Other programs' modules, as QEMU's tests have some on their path, hide none of ours."""
    for name in ("asyncio.py", "typing.py", "pyroaring.py"):
        (tmp_path / name).write_text("raise RuntimeError('foreign')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run(program, "--version", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    done = run(sys.executable, "-m", "blkxact", "--version", cwd=tmp_path.parent)
    assert done.returncode == 0


# Shims


@pytest.fixture
def shims(tmp_path):
    directory = tmp_path / "with a blank" / "bin"
    done = blkxact("shim", directory)
    assert (done.status, done.err) == (0, "")
    return directory


def test_shims_are_qemus_programs_by_name_anywhere(shims, tmp_path):
    for name in ("asyncio.py", "typing.py", "re.py", "blkxact.py"):
        (tmp_path / name).write_text("raise RuntimeError('foreign')\n")
    environment = {"PATH": f"{shims}:/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "HOME": "/"}
    for name, text in (
        ("qemu-system-x86_64", "QEMU emulator version"),
        ("qemu-kvm", "QEMU emulator version"),
        ("qemu-storage-daemon", "qemu-storage-daemon version"),
        ("qemu-img", "qemu-img version"),
    ):
        done = run(name, "--version", env=environment, cwd=tmp_path)
        assert done.stdout.startswith(f"{text} 7.2."), done
    done = run("qemu-kvm", "-foo", env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "qemu-kvm: -foo: invalid option\n")


def test_shim_of_qemu_img_creates_images_and_hands_other_verbs_on(tmp_path, monkeypatch):
    real = tmp_path / "real"
    real.mkdir()
    (real / "qemu-img").write_text('#!/bin/sh\necho "real $*"\n')
    (real / "qemu-img").chmod(0o755)
    directory = tmp_path / "shims"
    monkeypatch.setenv("PATH", f"{directory}:{real}:{os.environ['PATH']}")
    assert blkxact("shim", directory).status == 0
    assert blkxact("shim", directory).status == 0
    image = tmp_path / "a.qcow2"
    done = run(directory / "qemu-img", "create", "-f", "qcow2", image, "1M")
    assert done.returncode == 0, done.stderr
    assert image.exists()
    done = run(directory / "qemu-img", "bench", "-c", "1", image)
    assert done.stdout == f"real bench -c 1 {image}\n"
    done = run(directory / "qemu-img", "info", "/nowhere")
    assert (done.returncode, done.stderr) == (
        1, "qemu-img: Could not open '/nowhere': Could not open '/nowhere': " + NO_FILE + "\n",
    )  # fmt: skip


def test_shim_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    done = blkxact("shim", tmp_path / "file" / "x")
    assert done.status == 1
    assert done.err == f"blkxact: {tmp_path / 'file' / 'x'}: Not a directory\n"


def test_an_event_stands_before_what_the_request_that_raised_it_prints(image_dir):
    nodes = []
    for name in "abc":
        (image_dir / name).write_bytes((b"x" if name == "b" else b"\0") * 512)
        nodes += ["-blockdev", f"file,filename={image_dir / name},node-name={name}"]
    children = "children.0=a,children.1=b,children.2=c"
    nodes += ["-blockdev", f"quorum,node-name=q,vote-threshold=2,{children}"]
    line = 'qemu-io q "read 0 512"'
    commands = [
        {"execute": "qmp_capabilities"},
        {"execute": "human-monitor-command", "arguments": {"command-line": line}},
        {"execute": "quit"},
    ]
    done = subprocess.run(
        [SYSTEM, *QUIET, *nodes, "-qmp", "stdio"],
        input="".join(json.dumps(command) for command in commands),
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    event, read = done.stdout.index("QUORUM_REPORT_BAD"), done.stdout.index("read 512/512 bytes")
    assert event < read


def test_the_log_of_a_qtest_socket_goes_to_standard_error(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "q"))
    listener.listen()
    words = [SYSTEM, *QUIET, "-qtest", f"unix:{tmp_path / 'q'}", "-qmp", "stdio"]
    with started(*words, stdin=subprocess.PIPE, text=True) as process:
        client, _ = listener.accept()
        client.sendall(b"clock_step 5\n")
        assert client.recv(100) == b"OK 5\n"
        commands = '{"execute": "qmp_capabilities"}{"execute": "quit"}'
        _, errors = process.communicate(commands, timeout=TIMEOUT)
    client.close()
    listener.close()
    lines = [re.sub(r"[0-9]+\.[0-9]+", "T", line) for line in errors.splitlines()]
    assert lines == ["[I T] OPENED", "[R +T] clock_step 5", "[S +T] OK 5", "[I +T] CLOSED"]


def test_client_on_stdio_that_does_not_read_holds_up_nobody(image_dir):
    socket_path = image_dir / "qmp"
    count = 300
    with started(
        SYSTEM, *QUIET, "-qmp", "stdio", "-qmp", f"unix:{socket_path},server=on,wait=off",
        stdin=subprocess.PIPE,
    ) as process:  # fmt: skip
        words = ["qmp_capabilities", *["query-commands"] * count]
        process.stdin.write("".join(f'{{"execute": "{word}"}}\n' for word in words).encode())
        process.stdin.flush()
        other = Qmp(connected(socket_path))
        assert other.run("query-name") == {}
        # What did not fit into the pipe comes when it is read.
        replies = [json.loads(process.stdout.readline()) for _ in range(count + 2)]
        assert len(replies[-1]["return"]) > 200
        assert all(reply == replies[-1] for reply in replies[2:])
        process.stdin.write(b'{"execute": "quit"}\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["event"] == "SHUTDOWN"
        assert json.loads(process.stdout.readline()) == {"return": {}}
        assert process.wait(TIMEOUT) == 0
        other.close()


def test_output_on_stdio_that_is_not_read_yet_is_there_at_the_end():
    with started(SYSTEM, *QUIET, "-qmp", "stdio", stdin=subprocess.PIPE) as process:
        words = ["qmp_capabilities", *["query-commands"] * 40, "quit"]
        text = "".join(f'{{"execute": "{word}"}}\n' for word in words).encode()
        out, _err = process.communicate(text, TIMEOUT)
    assert b'"SHUTDOWN"' in out.splitlines()[-2]
    assert len(out.splitlines()) == 1 + 42 + 1
