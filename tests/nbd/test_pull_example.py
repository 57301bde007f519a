"""The commands of docs/pull-backup.md do what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .process import tool_environment

pytestmark = pytest.mark.nbd

PAGE = Path(__file__).parents[2] / "docs" / "pull-backup.md"
MIB = 1 << 20
SIZE = 64 * MIB


def disk(*pieces: tuple[int, int]) -> bytes:
    """Return a disk of pieces ``(byte, MiB)`` and then zeroes."""
    return b"".join(bytes([value]) * (size * MIB) for value, size in pieces).ljust(SIZE, b"\0")


def test_pull_backup_example_brings_out_the_points_in_time(image_dir: Path) -> None:
    scripts = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    tool = image_dir / "blkxact"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m blkxact "$@"\n')
    tool.chmod(0o755)
    environment = tool_environment()
    environment["PATH"] = f"{image_dir}:{environment['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", "\n".join(scripts)],
        cwd=image_dir,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    told = [line.split() for line in done.stdout.splitlines()]
    assert told == [
        ["0", str(MIB), "0", "clean"],
        [str(MIB), str(MIB), "1", "dirty"],
        [str(2 * MIB), str(SIZE - 2 * MIB), "0", "clean"],
    ]
    assert (image_dir / "backup.raw").read_bytes() == disk((1, 1), (2, 1), (1, 6))
    assert (image_dir / "second.raw").read_bytes() == disk((3, 4), (1, 4))
    assert (image_dir / "scratch.raw").stat().st_blocks == 0, "the discard frees what was saved"
