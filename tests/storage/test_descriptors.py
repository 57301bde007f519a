"""File descriptors that clients pass in: names, sets, and files opened from them."""

import os
import socket
from array import array
from pathlib import Path

import pytest

from blkxact.errors import QmpError
from blkxact.storage.descriptors import Descriptors
from blkxact.storage.errors import BadDescriptorSet
from blkxact.storage.fd_socket import FdSocket, keep_descriptors
from blkxact.storage.os_file import OsStorage


@pytest.fixture
def descriptors():
    kept = Descriptors()
    yield kept
    kept.close_all()


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def opened(path, flags=os.O_RDONLY):
    path.touch()
    return os.open(path, flags)


def test_name_that_is_used_again_closes_the_old_descriptor(descriptors, image_dir):
    first, second = opened(image_dir / "a"), opened(image_dir / "b")
    descriptors.name("x", first)
    descriptors.name("x", second)
    assert not is_open(first)
    assert descriptors.take("x") == second
    os.close(second)
    with pytest.raises(QmpError, match="File descriptor named 'x' has not been found"):
        descriptors.take("x")


def test_name_that_begins_with_a_digit_is_refused_and_closed(descriptors, image_dir):
    fd = opened(image_dir / "a")
    with pytest.raises(QmpError, match="expects a name not starting with a digit"):
        descriptors.name("1x", fd)
    assert not is_open(fd)


def test_sets_take_the_lowest_free_number(descriptors, image_dir):
    numbers = [descriptors.add(opened(image_dir / "a"), None, None) for _ in range(3)]
    descriptors.remove(1, None)
    assert [*numbers, descriptors.add(opened(image_dir / "a"), None, "why")] == [0, 1, 2, 1]
    assert [found["fdset-id"] for found in descriptors.describe()] == [2, 1, 0]
    assert descriptors.describe()[1]["fds"][0]["opaque"] == "why"


def test_set_with_a_negative_number_is_refused_and_closed(descriptors, image_dir):
    fd = opened(image_dir / "a")
    with pytest.raises(QmpError, match="'fdset-id' expects a non-negative value"):
        descriptors.add(fd, -1, None)
    assert not is_open(fd)


@pytest.mark.parametrize("fd", [None, 99999])
def test_remove_of_what_is_not_there_is_refused(descriptors, image_dir, fd):
    descriptors.add(opened(image_dir / "a"), 3, None)
    with pytest.raises(QmpError, match=r"fdset-id:[34](, fd:99999)?' not found"):
        descriptors.remove(3 if fd else 4, fd)


async def test_file_of_a_set_has_the_wanted_access(descriptors, image_dir):
    storage = OsStorage(descriptors=descriptors)
    descriptors.add(opened(image_dir / "a", os.O_RDONLY), 1, None)
    with pytest.raises(BadDescriptorSet) as refused:
        await storage.open("/dev/fdset/1")
    assert refused.value.message == "Could not dup FD for /dev/fdset/1 flags 2: Permission denied"
    descriptors.add(opened(image_dir / "a", os.O_RDWR), 1, None)
    file = await storage.open("/dev/fdset/1")
    await file.pwrite(0, b"abc")
    await file.close()
    assert (image_dir / "a").read_bytes() == b"abc"
    storage.close()


async def test_set_lives_as_long_as_a_file_that_was_opened_from_it(descriptors, image_dir):
    storage = OsStorage(descriptors=descriptors)
    descriptors.add(opened(image_dir / "a", os.O_RDWR), 1, None)
    file = await storage.open("/dev/fdset/1")
    descriptors.remove_unused()
    assert len(descriptors.describe()[0]["fds"]) == 1
    descriptors.remove(1, None)
    assert descriptors.describe() == [{"fdset-id": 1, "fds": []}]
    await file.close()
    assert descriptors.describe() == []
    storage.close()


def test_unused_sets_are_closed_when_the_last_client_has_left(descriptors, image_dir):
    fd = opened(image_dir / "a")
    descriptors.add(fd, 1, None)
    descriptors.remove_unused()
    assert not is_open(fd)
    assert descriptors.describe() == []


@pytest.mark.parametrize("name", ["", "x", "-1", "1x", "9" * 30])
def test_name_of_a_set_that_is_no_number_is_refused(descriptors, name):
    with pytest.raises(BadDescriptorSet) as refused:
        descriptors.open(f"/dev/fdset/{name}", os.O_RDONLY)
    assert refused.value.message == f"Could not parse fdset /dev/fdset/{name}"


# Sockets


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    received = keep_descriptors(ours)
    assert isinstance(received, FdSocket)
    yield received, theirs
    received.close()
    theirs.close()


def pass_in(client, *paths):
    fds = [opened(path) for path in paths]
    client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))])
    for fd in fds:
        os.close(fd)


def test_socket_keeps_the_first_descriptor_that_came_last(pair, image_dir):
    received, client = pair
    buffer = bytearray(10)
    pass_in(client, image_dir / "a")
    assert received.recv_into(buffer) == 1
    pass_in(client, image_dir / "b", image_dir / "c")
    assert received.recv_into(buffer) == 1
    before = open_descriptors()
    fd = received.take_descriptor()
    assert Path(f"/proc/self/fd/{fd}").readlink() == image_dir / "b"
    os.close(fd)
    assert open_descriptors() == before - 2
    assert received.take_descriptor() is None


def test_socket_that_is_closed_closes_what_nobody_took(pair, image_dir):
    received, client = pair
    pass_in(client, image_dir / "a")
    received.recv_into(bytearray(10))
    before = open_descriptors()
    received.close()
    assert open_descriptors() == before - 2


def test_socket_for_tcp_is_left_alone():
    with socket.socket(socket.AF_INET) as tcp:
        assert keep_descriptors(tcp) is tcp


def test_a_named_socket_is_taken_once(descriptors):
    ours, theirs = socket.socketpair()
    descriptors.name("peer", theirs.detach())
    with descriptors.take_socket("peer") as taken, ours:
        ours.send(b"x")
        assert taken.recv(1) == b"x"
    with pytest.raises(QmpError, match=r"^File descriptor named 'peer' has not been found$"):
        descriptors.take_socket("peer")


def test_what_is_no_socket_is_refused_and_closed(descriptors, tmp_path):
    before = open_descriptors()
    descriptors.name("file", opened(tmp_path / "a"))
    with pytest.raises(QmpError, match=r"^File descriptor 'file' is not a socket$"):
        descriptors.take_socket("file")
    assert open_descriptors() == before
