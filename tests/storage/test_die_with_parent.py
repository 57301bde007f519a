"""A process that dies with the one that started it, also if that was gone first."""

import os
import signal
import subprocess
import sys

import pytest

NOBODY = 0
"""No process that a process can see as its parent has this number."""


@pytest.mark.parametrize(("parent", "status"), [(os.getpid(), 0), (NOBODY, -signal.SIGKILL)])
def test_process_lives_only_if_its_parent_is_there(parent: int, status: int) -> None:
    code = f"from blkxact.storage.libc import die_with_parent; die_with_parent(9, {parent})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == status
