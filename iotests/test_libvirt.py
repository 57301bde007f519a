"""libvirt drives blkxact in QEMU's place, through its embedded driver, and notices nothing.

``libvirt/backups.py``, ``chains.py`` and ``machine.py`` have the scenarios. They run under the
system's Python, whose libvirt bindings cannot be installed with pip. Each also passes with the real
QEMU as EMULATOR, ``hotplug`` excepted: there a guest has to let its disk go.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAM = HERE / "libvirt" / "scenarios.py"
SYSTEM_PYTHON = "/usr/bin/python3"
EMULATOR = Path(sys.executable).with_name("blkxact-system-x86_64")
TIMEOUT_S = 120

SECOND_HALVES = {"reconnected"}
SCENARIOS = [
    name.replace("_", "-")
    for module in ("backups", "chains", "machine")
    for name in re.findall(
        r"^@scenario\ndef (\w+)", (HERE / "libvirt" / f"{module}.py").read_text(), re.MULTILINE
    )
    if name not in SECOND_HALVES
]


@pytest.fixture(scope="session")
def capabilities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where libvirt keeps what it found out about the emulator: it is probed once."""
    return tmp_path_factory.mktemp("capabilities")


@pytest.mark.libvirt
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_libvirt(scenario: str, directory: Path, capabilities: Path) -> None:
    (directory / "cache").symlink_to(capabilities)
    done = subprocess.run(
        [SYSTEM_PYTHON, str(PROGRAM), str(EMULATOR), str(directory), scenario],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    log = directory / "log" / "qemu" / "guest.log"
    said = log.read_text() if log.exists() else ""
    assert done.returncode == 0, f"{done.stderr}\n{said}"
