"""QEMU's own iotests, unmodified, with blkxact in QEMU's place.

They need QEMU's source tree, which no package registry has, and the script that runs them. Where
``BLKXACT_RUN_IOTESTS`` names the script, and ``QEMU_IOTESTS`` (a tree) or ``QEMU_MIRROR`` (a git
directory) says where the tests are, every name in ``qemu-iotests.txt`` must pass. Elsewhere there
is no test in this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = (HERE / "qemu-iotests.txt").read_text().split()
PROGRAMS = Path(sysconfig.get_path("scripts"))
SECONDS = 600
"""The slowest takes a minute on two cores."""

RUNNER = os.environ.get("BLKXACT_RUN_IOTESTS")
HAVE_TREE = bool(os.environ.get("QEMU_IOTESTS") or os.environ.get("QEMU_MIRROR"))

if RUNNER and HAVE_TREE:

    @pytest.mark.parametrize("name", NAMES)
    def test_iotest_of_qemu_passes(name: str) -> None:
        programs = {
            "QEMU_PROG": str(PROGRAMS / "blkxact-system-x86_64"),
            "QSD_PROG": str(PROGRAMS / "blkxact-storage-daemon"),
        }
        # The script looks for the Python that has libnbd itself, where a test needs it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        done = subprocess.run(
            [sys.executable, RUNNER, "--strict", "--timeout", str(SECONDS / 2), name],
            env={**environment, **programs},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
