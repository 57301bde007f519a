"""Locks between openers of one file, and between us and QEMU."""

import os
import subprocess

import pytest

from blkxact.storage.errors import LockConflict
from blkxact.storage.locks import ImageLock

READ, WRITE, UNCHANGED, RESIZE, ALL = 1, 2, 4, 8, 15


@pytest.fixture
def locks(image_dir):
    """Two openers of one file."""
    path = image_dir / "disk"
    path.touch()
    fds = [os.open(path, os.O_RDWR) for _ in range(2)]
    yield [ImageLock(fd, str(path)) for fd in fds]
    for fd in fds:
        os.close(fd)


def conflict(lock, **masks):
    with pytest.raises(LockConflict) as error:
        lock.change(**masks)
    return error.value.message


def test_writers_who_share_writing_get_along(locks):
    for lock in locks:
        lock.change(perm=READ | WRITE | RESIZE, shared=ALL)
    assert conflict(locks[0], perm=0, shared=READ) == 'Failed to get shared "write" lock'


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((WRITE, ALL & ~WRITE), (WRITE, ALL), 'Failed to get "write" lock'),
        ((READ, ALL & ~RESIZE), (RESIZE, ALL), 'Failed to get "resize" lock'),
        ((0, 0), (READ, ALL), 'Failed to get "consistent read" lock'),
        ((WRITE, ALL), (READ, ALL & ~WRITE), 'Failed to get shared "write" lock'),
        ((UNCHANGED, ALL), (0, 0), 'Failed to get shared "write unchanged" lock'),
    ],
)
def test_conflict_is_told_in_qemus_words_and_changes_nothing(locks, first, second, message):
    locks[0].change(perm=first[0], shared=first[1])
    assert conflict(locks[1], perm=second[0], shared=second[1]) == message
    locks[0].change(perm=ALL, shared=0)  # nothing of the second opener is in the way


def test_failed_change_keeps_what_was_held(locks):
    locks[0].change(perm=WRITE, shared=ALL)
    locks[1].change(perm=READ, shared=ALL & ~RESIZE)
    assert conflict(locks[1], perm=READ, shared=0) == 'Failed to get shared "write" lock'
    assert conflict(locks[0], perm=WRITE | RESIZE, shared=ALL) == 'Failed to get "resize" lock'
    locks[1].change(perm=0, shared=ALL)
    locks[0].change(perm=WRITE | RESIZE, shared=ALL)


def test_lock_let_go_lets_others_in(locks):
    locks[0].change(perm=WRITE, shared=0)
    assert conflict(locks[1], perm=WRITE, shared=0) == 'Failed to get "write" lock'
    locks[0].change(perm=0, shared=ALL)
    locks[1].change(perm=WRITE, shared=0)
    assert conflict(locks[0], perm=WRITE, shared=0) == 'Failed to get "write" lock'


def qemu_img(*words):
    done = subprocess.run(["qemu-img", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.qemu
def test_qemu_is_refused_what_we_lock(image_dir):
    path = str(image_dir / "disk")
    assert qemu_img("create", "-q", "-f", "qcow2", path, "1M") == (0, "")
    fd = os.open(path, os.O_RDWR)
    # As a qcow2 node with a writing guest locks its file.
    ImageLock(fd, path).change(perm=READ | WRITE | RESIZE, shared=READ | UNCHANGED)
    status, message = qemu_img("info", path)
    assert status == 1
    assert 'Failed to get shared "write" lock' in message
    assert f"Is another process using the image [{path}]?" in message
    assert qemu_img("info", "-U", path)[0] == 0
    status, message = qemu_img("create", "-f", "qcow2", path, "2M")
    assert status == 1
    assert 'Failed to get "write" lock' in message
    os.close(fd)
    assert qemu_img("info", path)[0] == 0


@pytest.mark.qemu
def test_we_are_refused_what_qemu_locks(image_dir):
    path = str(image_dir / "disk")
    assert qemu_img("create", "-q", "-f", "qcow2", path, "1M") == (0, "")
    command = ["qemu-io", "-f", "qcow2", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"write 0 512\n")
        process.stdin.flush()
        line = b"qemu-io> "
        while b"wrote" not in line:
            line = process.stdout.readline()
            assert line
        fd = os.open(path, os.O_RDWR)
        lock = ImageLock(fd, path)
        assert conflict(lock, perm=READ | WRITE, shared=READ) == 'Failed to get "write" lock'
        assert conflict(lock, perm=READ, shared=READ) == 'Failed to get shared "write" lock'
        process.stdin.close()
        process.stdout.read()
    lock.change(perm=READ | WRITE, shared=READ)
    os.close(fd)
