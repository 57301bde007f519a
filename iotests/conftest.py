"""Fixtures of the scenarios: one daemon for all that leave it alive, and a scene for each."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from .harness import Daemon, say
from .scene import Scene


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a scenario keeps its images; the path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="blkxact-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class SharedDaemon:
    """The daemon that most scenarios share: each must leave it as it found it."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._daemon: Daemon | None = None

    def get(self) -> Daemon:
        """Return it, started if need be."""
        if self._daemon is None:
            path = Path(tempfile.mkdtemp(prefix="blkxact-"))
            self._stack.callback(shutil.rmtree, path, ignore_errors=True)
            self._daemon = self._stack.enter_context(Daemon(path))
        return self._daemon

    def end(self) -> None:
        """End it: after a failure nobody knows what is left in it, so the next takes a new one."""
        self._stack.close()
        self._daemon = None


@pytest.fixture(scope="session")
def shared() -> Iterator[SharedDaemon]:
    """The shared daemon, which starts with the first scenario that uses it."""
    shared = SharedDaemon()
    yield shared
    shared.end()


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest, directory: Path, shared: SharedDaemon
) -> AsyncIterator[Scene]:
    """A stage on the shared daemon, which must be empty again at the end."""
    print()
    say(f"--- {request.node.name}")
    daemon = shared.get()
    async with daemon.client() as client:
        scene = Scene(directory, daemon, client)
        yield scene
        try:
            await scene.close()
        except BaseException:
            say(f"the daemon said: {daemon.text()}")
            shared.end()
            raise
