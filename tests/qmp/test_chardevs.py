"""Chardevs are opened as QEMU opens them: they listen, wait, connect, or are refused."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from blkxact.errors import QmpError
from blkxact.machine.options import (
    ChardevSocket,
    ChardevStdio,
    ChardevUnused,
    FdAddress,
    InetAddress,
    UnixAddress,
)
from blkxact.monitor.chardevs import open_chardev
from blkxact.runtime.clock import SystemClock
from blkxact.testing.waiting import until_idle


def exists(path):
    return Path(path).exists()


class Announcement:
    """What is announced before a client is waited for."""

    def __init__(self):
        self.text = ""
        self.made = asyncio.Event()

    def __call__(self, text):
        self.text = text
        self.made.set()


@pytest.fixture
def path(image_dir):
    return str(image_dir / "s")


async def opened(address, *, server, wait=False, announce=print):
    chardev = ChardevSocket("c", address, server=server, wait=wait)
    return await open_chardev(chardev, announce, SystemClock())


async def test_server_listens_at_once_and_its_file_goes_with_it(path):
    endpoint = await opened(UnixAddress(path), server=True)
    assert endpoint.address == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    endpoint.close()
    assert not exists(path)


async def test_server_with_wait_returns_with_its_first_client(path):
    announce = Announcement()
    opening = asyncio.create_task(
        opened(UnixAddress(path), server=True, wait=True, announce=announce)
    )
    await announce.made.wait()
    where = f"disconnected:unix:{path},server=on"
    assert announce.text == f"info: QEMU waiting for connection on: {where}"
    await until_idle()
    assert not opening.done()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        endpoint = await opening
        assert endpoint.client is not None
        endpoint.close()


async def test_server_whose_wait_is_cancelled_leaves_nothing(path):
    announce = Announcement()
    opening = asyncio.create_task(
        opened(UnixAddress(path), server=True, wait=True, announce=announce)
    )
    await announce.made.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not exists(path)


async def test_client_is_connected(path):
    with socket.socket(socket.AF_UNIX) as there, socket.socket() as tcp:
        there.bind(path)
        there.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        port = str(tcp.getsockname()[1])
        for address in (UnixAddress(path), InetAddress("127.0.0.1", port)):
            endpoint = await opened(address, server=False)
            assert endpoint.client is not None
            endpoint.close()


async def test_socket_passed_in_listens(path):
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(path)
        there.listen()
        endpoint = await opened(FdAddress(os.dup(there.fileno())), server=True)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    endpoint.close()
    assert not exists(path)


async def test_chardevs_of_other_kinds_have_no_socket():
    assert (await open_chardev(ChardevStdio(), print, SystemClock())).is_stdio
    unused = await open_chardev(ChardevUnused("n", "null"), print, SystemClock())
    assert unused.listener is unused.client is None


@pytest.mark.parametrize(
    ("address", "server", "refusal"),
    [
        (UnixAddress("/nowhere/s"), True, "Failed to bind socket to /nowhere/s: No such file or "),
        (UnixAddress("/nowhere/s"), False, "Failed to connect to '/nowhere/s': No such file or "),
        (InetAddress("127.0.0.1", "1"), False, "Failed to connect to '127.0.0.1:1': Connection "),
        (InetAddress("a", "b:c"), True, "address resolution failed for a:b:c: "),
        (InetAddress("127.0.0.1", "b:c"), False, "address resolution failed for 127.0.0.1:b:c: "),
        (InetAddress("0.0.0.0", "0"), True, "'0.0.0.0' is not a loopback address"),
        (FdAddress(99), True, "File descriptor '99' is not a socket"),
        (UnixAddress("/" + "x" * 200), False, "UNIX socket path '/x"),
    ],
)
async def test_chardev_that_cannot_be_opened_is_refused(address, server, refusal):
    with pytest.raises(QmpError) as caught:
        await opened(address, server=server)
    assert str(caught.value).startswith(refusal)


async def test_file_passed_in_is_no_socket(tmp_path):
    file = os.open(tmp_path / "f", os.O_CREAT)
    try:
        with pytest.raises(QmpError, match=f"File descriptor '{file}' is not a socket"):
            await opened(FdAddress(file), server=True)
    finally:
        os.close(file)


async def test_tcp_port_in_use_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(QmpError, match="Failed to find an available port: Address already in"):
            await opened(InetAddress("127.0.0.1", port), server=True)
        endpoint = await opened(InetAddress("127.0.0.1", port, to=int(port) + 9), server=True)
        assert endpoint.address != f"tcp:127.0.0.1:{port}"
        endpoint.close()
