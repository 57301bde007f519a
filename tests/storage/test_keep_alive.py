"""keep-alive of InetSocketAddress, on real sockets. Texts are those of QEMU."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from blkxact.errors import QmpError
from blkxact.qapi.sockets import InetSocketAddress
from blkxact.runtime.clock import SystemClock
from blkxact.storage.network import SystemNetwork
from blkxact.storage.sockets import bind_inet
from blkxact.testing.waiting import until
from tests.emulator import Emulator

TIMES = {"keep-alive-count": 3, "keep-alive-idle": 20, "keep-alive-interval": 5}


def options(inet: socket.socket) -> list[int]:
    tcp = socket.IPPROTO_TCP
    return [
        inet.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        inet.getsockopt(tcp, socket.TCP_KEEPCNT),
        inet.getsockopt(tcp, socket.TCP_KEEPIDLE),
        inet.getsockopt(tcp, socket.TCP_KEEPINTVL),
    ]


async def connected(**members: Any) -> list[int]:
    """Return the options of a connection whose address has these members."""
    with bind_inet("127.0.0.1", "0") as listener:
        listener.listen()
        address = InetSocketAddress(
            host="127.0.0.1", port=str(listener.getsockname()[1]), **members
        )
        transport = await SystemNetwork(SystemClock()).connect(address, asyncio.BufferedProtocol)
        try:
            return options(transport.get_extra_info("socket"))
        finally:
            transport.abort()


async def test_connection_has_the_times_of_its_address() -> None:
    times = {name.replace("-", "_"): value for name, value in TIMES.items()}
    assert await connected(keep_alive=True, **times) == [1, 3, 20, 5]


async def test_times_are_the_systems_where_none_are_given() -> None:
    with socket.socket() as plain:
        system = options(plain)
    assert await connected() == system
    assert await connected(keep_alive_count=3) == system  # without keep-alive it means nothing
    assert await connected(keep_alive=True) == [1, *system[1:]]


@pytest.mark.parametrize(
    ("member", "what"), [("count", "count"), ("idle", "idle"), ("interval", "interval")]
)
async def test_time_that_the_system_does_not_take_is_refused(member: str, what: str) -> None:
    reason = f"^Unable to set TCP keep-alive {what} option on socket: Invalid argument$"
    with pytest.raises(QmpError, match=reason):
        await connected(keep_alive=True, **{f"keep_alive_{member}": 2**32 - 1})


def server(**members: Any) -> dict[str, Any]:
    data = {"host": "127.0.0.1", "port": "0", **members}
    return {"addr": {"type": "inet", "data": data}}


@pytest.fixture
def emulator(request: pytest.FixtureRequest) -> Emulator:
    made = Emulator()
    made.emulate(request.param)
    return made


@pytest.mark.parametrize("emulator", ["11.1"], indirect=True)
async def test_clients_of_an_nbd_server_have_the_times_of_its_address(emulator: Emulator) -> None:
    await emulator.execute_wire("nbd-server-start", server(**{"keep-alive": True, **TIMES}))
    address = emulator.layer.nbd_server.address
    assert address is not None
    port = int(address.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = writer.get_extra_info("sockname")
    await until(lambda: [1, 3, 20, 5] in [options(one) for one in connected_to(peer)])
    writer.close()
    await emulator.layer.shutdown()


def connected_to(peer: tuple[str, int]) -> Iterator[socket.socket]:
    """Yield the sockets of this process whose other end is ``peer``."""
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found = socket.socket(fileno=os.dup(int(fd.name)))
        except OSError:  # no socket, or the descriptor of this listing
            continue
        with found, suppress(OSError):
            if found.family == socket.AF_INET and found.getpeername() == peer:
                yield found


@pytest.mark.parametrize("emulator", ["10.0"], indirect=True)
async def test_older_release_has_no_times_and_listens_without(emulator: Emulator) -> None:
    with pytest.raises(QmpError, match=r"^keep-alive option is not supported for passive sockets$"):
        await emulator.execute_wire("nbd-server-start", server(**{"keep-alive": True}))
    for name, value in TIMES.items():
        with pytest.raises(QmpError, match=f"^Parameter 'addr.data.{name}' is unexpected$"):
            await emulator.execute_wire("nbd-server-start", server(**{name: value}))
    await emulator.execute_wire("nbd-server-start", server())
    await emulator.layer.shutdown()
