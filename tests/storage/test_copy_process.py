"""A process that copies: as a thread does, and never in the way when it dies."""

import errno
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from blkxact.storage import copy_process
from blkxact.storage.api import FileRange
from blkxact.storage.copy_lane import MANY
from blkxact.storage.copy_process import CopyProcess, CopyProcesses
from blkxact.storage.copy_range import joined
from blkxact.storage.copy_worker import MAX_COPIES, MAX_SOURCES
from blkxact.storage.errors import CopyError
from blkxact.storage.os_file import OsStorage

PIECE = 4096
SECONDS = 20


def until(condition, *arguments):
    """Return when the condition holds, which another process makes true."""
    deadline = time.monotonic() + SECONDS
    while not condition(*arguments):
        assert time.monotonic() < deadline, condition
        time.sleep(0.001)


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def process():
    made = CopyProcess()
    until(made.is_ready)
    yield made
    made.close()


@pytest.fixture
def open_file(image_dir):
    """Open a file of the directory, with bytes if there are any, and close it in the end."""
    opened = []

    def open_(name, data=b"", flags=os.O_RDWR):
        path = image_dir / name
        path.write_bytes(data)
        opened.append(os.open(path, flags))
        return opened[-1]

    yield open_
    for fd in opened:
        os.close(fd)


def pieces_of(source, count, rng):
    """Return copies of every other piece, to places chosen at random."""
    places = rng.sample(range(2 * count), count)
    return [(source, 2 * at * PIECE, place * PIECE, PIECE) for at, place in enumerate(places)]


def test_bytes_arrive_as_they_do_by_a_thread(process, open_file, seeded):
    data = seeded.randbytes(2 * 100 * PIECE)
    source, other = open_file("source", data), open_file("other", data[::-1])
    copies = pieces_of(source, 100, seeded)
    copies = [(other if at % 3 else source, *copy[1:]) for at, copy in enumerate(copies)]
    target = open_file("target")
    assert process.copy(target, copies)
    for fd, start, offset, length in copies:
        assert os.pread(target, length, offset) == os.pread(fd, length, start)
    assert os.fstat(target).st_size == max(copy[2] for copy in copies) + PIECE


def test_what_lies_beyond_the_end_of_the_source_is_zero(process, open_file):
    source, target = open_file("source", b"x" * 100), open_file("target", b"y" * 2 * PIECE)
    assert process.copy(target, [(source, 0, 0, PIECE)])
    assert os.pread(target, 2 * PIECE, 0) == b"x" * 100 + bytes(PIECE - 100) + b"y" * PIECE


@pytest.mark.parametrize("reading", [True, False])
def test_a_failure_tells_its_side(process, open_file, reading):
    bad = os.O_WRONLY if reading else os.O_RDONLY
    source = open_file("source", bytes(PIECE), bad if reading else os.O_RDONLY)
    target = open_file("target", b"", os.O_RDWR if reading else bad)
    with pytest.raises(CopyError) as raised:
        process.copy(target, [(source, 0, 0, PIECE)])
    assert (raised.value.errno, raised.value.reading) == (errno.EBADF, reading)
    good = open_file("good", bytes(PIECE))
    assert process.copy(open_file("next"), [(good, 0, 0, PIECE)]), "it goes on after a failure"


def test_it_refuses_what_does_not_fit_a_message(process, open_file):
    source, target = open_file("source", bytes(PIECE)), open_file("target")
    assert process.copy(target, [(source, 0, 0, 1)] * MAX_COPIES)
    assert not process.copy(target, [(source, 0, 0, 1)] * (MAX_COPIES + 1))
    sources = [os.dup(source) for _ in range(MAX_SOURCES + 1)]
    try:
        assert process.copy(target, [(fd, 0, 0, 1) for fd in sources[1:]])
        assert not process.copy(target, [(fd, 0, 0, 1) for fd in sources])
    finally:
        for fd in sources:
            os.close(fd)


def test_after_the_answer_it_holds_no_locks(process, open_file, image_dir):
    source, target = open_file("source", bytes(PIECE)), open_file("target")
    for _ in range(200):
        mine = os.open(image_dir / "target", os.O_RDWR)
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert process.copy(mine, [(source, 0, 0, PIECE)])
        os.close(mine)
    fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_process_that_was_killed_says_that_it_cannot(process, open_file):
    source, target = open_file("source", bytes(PIECE)), open_file("target")
    os.kill(process.pid, signal.SIGKILL)
    for _ in range(2):
        assert not process.copy(target, [(source, 0, 0, PIECE)])


def test_people_see_what_it_is(process):
    assert Path(f"/proc/{process.pid}/comm").read_text() == "blkxact-copy\n"


def test_closing_ends_it(open_file):
    made = CopyProcess()
    made.close()
    assert is_gone(made.pid)


PARENT = """
import sys, time
from blkxact.storage.copy_process import CopyProcess
made = CopyProcess()
while not made.is_ready():
    time.sleep(0.001)
print(made.pid, flush=True)
sys.stdin.read()
"""


def test_it_dies_with_its_parent():
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
    until(is_gone, pid)


@pytest.mark.parametrize("greeting", ["read", "unread"])
def test_it_has_nothing_to_say_when_the_daemon_is_gone(capfd, greeting):
    process = CopyProcess()
    if greeting == "read":
        until(process.is_ready)
    else:
        assert select.select([process._socket], [], [], SECONDS)[0]
    process._socket.close()
    assert process._process.wait(SECONDS) == 0
    assert capfd.readouterr().err == ""


def test_neighbours_are_joined(seeded):
    rng = seeded
    copies = []
    for _ in range(1000):
        if copies and rng.random() < 0.5:
            source, start, offset, length = copies[-1]
            shift = rng.choice([0, 0, 1])
            copies.append((source, start + length, offset + length + shift, rng.randrange(1, 9)))
        else:
            copies.append((rng.randrange(3), rng.randrange(99), rng.randrange(99), 5))
    whole = list(joined(copies))

    def by_byte(some):
        return [(fd, a + at, b + at) for fd, a, b, length in some for at in range(length)]

    assert by_byte(whole) == by_byte(copies)
    assert len(whole) < len(copies)
    for one, after in pairwise(whole):
        assert (one[0], one[1] + one[3], one[2] + one[3]) != after[:3]
    assert list(joined([])) == []


# Of a storage


@pytest.fixture
def processes():
    made = CopyProcesses(2)
    yield made
    made.close()


def test_files_share_processes_evenly(processes):
    first, second = processes.take(), processes.take()
    assert first is not second
    processes.give_back(second)
    assert processes.take() is second
    assert {processes.take(), processes.take()} == {first, second}


def test_none_is_started_while_one_has_nothing_to_do(processes):
    first = processes.take()
    processes.give_back(first)
    assert processes.take() is first


def test_where_none_can_be_started_there_is_none(monkeypatch, caplog):
    monkeypatch.setattr(copy_process.sys, "executable", "/nonexistent")
    processes = CopyProcesses(2)
    assert processes.take() is None
    assert processes.take() is None
    assert [record.getMessage() for record in caplog.records] == [
        "Cannot start a process that copies: No such file or directory"
    ]


@pytest.fixture
async def scattered(image_dir, seeded):
    """A storage with one process, a source, a target, and runs that copy in many pieces."""
    storage = OsStorage(copy_processes=1)
    source, target = [await storage.create(str(image_dir / name)) for name in ("source", "target")]
    await source.pwrite(0, seeded.randbytes(4 * MANY * PIECE))
    runs = [
        (offset, FileRange(source, start, length))
        for _, start, offset, length in pieces_of(0, 2 * MANY, seeded)
    ]
    yield storage, target, runs
    await source.close()
    await target.close()
    storage.close()


async def check(target, runs):
    for offset, piece in runs:
        wanted = await piece.file.pread(piece.offset, piece.length)
        assert await target.pread(offset, piece.length) == wanted


async def test_many_copies_at_a_time_go_to_the_process(scattered, monkeypatch):
    storage, target, runs = scattered
    await target.copy_runs(runs)  # it is not ready yet, and nothing waits for it
    await check(target, runs)
    process = storage.workers.copy_processes.take()
    until(process.is_ready)
    monkeypatch.setattr(storage.workers.copier, "copy", None)
    await target.truncate(0)
    await target.copy_runs(runs)
    await check(target, runs)


async def test_few_copies_at_a_time_start_no_process(scattered, monkeypatch):
    _, target, runs = scattered
    monkeypatch.setattr(CopyProcesses, "take", None)
    await target.copy_runs(runs[: MANY - 1])
    await check(target, runs[: MANY - 1])


async def test_what_a_killed_process_leaves_is_copied_by_a_thread(scattered):
    storage, target, runs = scattered
    process = storage.workers.copy_processes.take()
    until(process.is_ready)
    os.kill(process.pid, signal.SIGKILL)
    await target.copy_runs(runs)
    await check(target, runs)


async def test_a_storage_ends_its_processes(scattered):
    storage, target, runs = scattered
    await target.copy_runs(runs)
    pid = storage.workers.copy_processes.take().pid
    storage.close()
    assert is_gone(pid)
    await target.truncate(0)
    await target.copy_runs(runs)
    await check(target, runs)
