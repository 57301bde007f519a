"""Clients for whom there is no descriptor, or no room."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from blkxact.storage import acceptor
from blkxact.storage.acceptor import RETRY_S, Acceptor
from blkxact.testing.waiting import until_idle
from tests.nbd.house import ManualClock


class House:
    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        self.taken: list[socket.socket] = []
        self.room = 100
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        self.path = str(path)
        self.waiting: list[socket.socket] = []
        self.acceptor = Acceptor(
            listener,
            "Toy",
            self.clock,
            has_room=lambda: len(self.taken) < self.room,
            on_client=self.taken.append,
        )

    def connect(self, count: int) -> None:
        for _ in range(count):
            client = socket.socket(socket.AF_UNIX)
            client.connect(self.path)
            self.waiting.append(client)

    def close(self) -> None:
        self.acceptor.close()
        for one in self.taken + self.waiting:
            one.close()


@pytest.fixture
async def house(image_dir: Path) -> Iterator[House]:
    house = House(image_dir / "s")
    yield house
    house.close()


async def test_clients_beyond_the_room_wait_until_there_is_some(house: House) -> None:
    house.room = 3
    house.connect(5)
    await until_idle()
    assert len(house.taken) == 3
    house.taken.pop().close()
    house.acceptor.update()
    await until_idle()
    assert len(house.taken) == 3


@pytest.mark.parametrize("scarce", ["reserve", "EMFILE", "ENFILE"])
async def test_clients_without_descriptors_cost_one_line_and_one_look_a_second(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, scarce: str
) -> None:
    looks = []

    def left() -> bool:
        looks.append(1)
        return scarce != "reserve"

    class Broken:
        def accept(self) -> None:
            number = getattr(errno, scarce)
            raise OSError(number, os.strerror(number))

        def __getattr__(self, name: str) -> object:
            return getattr(listener, name)

    listener = house.acceptor._listener
    with monkeypatch.context() as patch:
        patch.setattr(acceptor, "descriptors_left", left)
        if scarce != "reserve":
            patch.setattr(house.acceptor, "_listener", Broken())
        house.connect(5)
        for turn in range(1, 4):
            await until_idle()
            assert len(looks) == turn
            assert house.clock.sleepers == 1
            house.clock.advance(RETRY_S)
        assert not house.taken
        assert caplog.text.count("Toy clients wait") == 1
    await until_idle()
    house.clock.advance(RETRY_S)
    await until_idle()
    assert len(house.taken) == 5
    assert house.clock.sleepers == 0


async def test_last_descriptors_are_kept_for_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    clients = 10
    limit = (lowest + clients + 5) * 4 // 3
    monkeypatch.setattr("resource.getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(acceptor, "RESERVED_DESCRIPTORS", limit // 4)
    house.connect(clients)
    await until_idle()
    assert house.taken
    assert max(one.fileno() for one in house.taken) < limit - limit // 4
    assert house.clock.sleepers == 1


async def test_closing_forgets_the_next_try(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "descriptors_left", lambda: False)
    house.connect(1)
    await until_idle()
    house.acceptor.close()
    house.clock.advance(RETRY_S)
    await until_idle()
    assert not house.taken
