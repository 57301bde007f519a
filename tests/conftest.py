"""Fixtures that all tests share."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def image_dir() -> Iterator[Path]:
    """A directory for images and sockets; its path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="blkxact-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def qemu_img() -> Callable[..., str]:
    """Run the real ``qemu-img`` and return what it printed; mark such tests ``qemu``."""

    def run(*words: str | Path, status: int = 0) -> str:
        done = subprocess.run(
            ["qemu-img", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == status, f"qemu-img {words}: {done.stderr or done.stdout}"
        return done.stdout

    return run


@pytest.fixture
def seeded(request: pytest.FixtureRequest) -> random.Random:
    """A random source whose seed is fixed for each test and shown when the test fails."""
    seed = zlib.crc32(request.node.nodeid.encode())
    print(f"seed: {seed}")
    return random.Random(seed)
