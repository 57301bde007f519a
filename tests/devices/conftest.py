"""A loop device for each test that asks for one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

MIB = 1 << 20


@cache
def kernel_has_loop_devices() -> bool:
    found = subprocess.run(["losetup", "-f"], capture_output=True, check=False)
    return found.returncode == 0


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return a function that makes a loop device of so many bytes and returns its name."""
    if not kernel_has_loop_devices():
        pytest.skip("this kernel lets us make no loop device")
    made: list[str] = []

    def make(size: int = 4 * MIB, *, read_only: bool = False) -> str:
        file = tmp_path / f"device{len(made)}"
        with file.open("wb") as opened:
            opened.truncate(size)
        words = ["losetup", "--show", "-f", *(["-r"] if read_only else []), str(file)]
        name = subprocess.run(words, capture_output=True, check=True, text=True).stdout.strip()
        made.append(name)
        return name

    yield make
    for name in made:
        subprocess.run(["losetup", "-d", name], check=True)
