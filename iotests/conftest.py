"""Fixtures of the scenarios: one daemon for all that leave it alive, and a scene for each."""

from __future__ import annotations

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


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """The daemon that most scenarios share: each must leave it as it found it."""
    path = Path(tempfile.mkdtemp(prefix="blkxact-"))
    with Daemon(path) as daemon:
        yield daemon
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest, directory: Path, daemon: Daemon
) -> AsyncIterator[Scene]:
    """A stage on the shared daemon, which must be empty again at the end."""
    print()
    say(f"--- {request.node.name}")
    async with daemon.client() as client:
        scene = Scene(directory, daemon, client)
        yield scene
        await scene.close()
