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
from tests.nbd.served import ManualClock


class Listening:
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
async def listening(image_dir: Path) -> Iterator[Listening]:
    listening = Listening(image_dir / "s")
    yield listening
    listening.close()


async def test_clients_beyond_the_room_wait_until_there_is_some(listening: Listening) -> None:
    listening.room = 3
    listening.connect(5)
    await until_idle()
    assert len(listening.taken) == 3
    listening.taken.pop().close()
    listening.acceptor.update()
    await until_idle()
    assert len(listening.taken) == 3


@pytest.mark.parametrize("scarce", ["reserve", "EMFILE", "ENFILE"])
async def test_clients_without_descriptors_cost_one_line_and_one_look_a_second(
    listening: Listening,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    scarce: str,
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

    listener = listening.acceptor._listener
    with monkeypatch.context() as patch:
        patch.setattr(acceptor, "descriptors_left", left)
        if scarce != "reserve":
            patch.setattr(listening.acceptor, "_listener", Broken())
        listening.connect(5)
        for turn in range(1, 4):
            await until_idle()
            assert len(looks) == turn
            assert listening.clock.sleepers == 1
            listening.clock.advance(RETRY_S)
        assert not listening.taken
        assert caplog.text.count("Toy clients wait") == 1
    await until_idle()
    listening.clock.advance(RETRY_S)
    await until_idle()
    assert len(listening.taken) == 5
    assert listening.clock.sleepers == 0


async def test_last_descriptors_are_kept_for_others(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    clients = 10
    limit = (lowest + clients + 5) * 4 // 3
    monkeypatch.setattr("resource.getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(acceptor, "RESERVED_DESCRIPTORS", limit // 4)
    listening.connect(clients)
    await until_idle()
    assert listening.taken
    assert max(one.fileno() for one in listening.taken) < limit - limit // 4
    assert listening.clock.sleepers == 1


async def test_closing_forgets_the_next_try(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "descriptors_left", lambda: False)
    listening.connect(1)
    await until_idle()
    listening.acceptor.close()
    listening.clock.advance(RETRY_S)
    await until_idle()
    assert not listening.taken
