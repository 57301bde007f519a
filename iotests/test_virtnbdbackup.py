"""virtnbdbackup: full, incremental and differential backups of a domain that blkxact runs.

libvirt is embedded in each process in turn; the domain runs on between them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "libvirt"
SYSTEM_PYTHON = "/usr/bin/python3"
EMULATOR = Path(sys.executable).with_name("blkxact-system-x86_64")
TIMEOUT_S = 120
MIB = 1 << 20
SIZE = 16 * MIB


def run(*words: object) -> None:
    """Run a program of the system's Python."""
    done = subprocess.run(
        [SYSTEM_PYTHON, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


class Domain:
    """The domain, and what its disk holds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "libvirt"
        self.contents = bytearray(SIZE)

    def step(self, *words: object) -> None:
        """Do something with the domain."""
        run(PROGRAMS / "guest.py", EMULATOR, self.root, *words)

    def write(self, offset: int, length: int, pattern: int) -> None:
        """Write to vda as the guest."""
        self.step("write", "vda", offset, length, pattern)
        self.contents[offset : offset + length] = bytes([pattern]) * length

    def tool(self, name: str, *words: object) -> None:
        """Run virtnbdbackup or virtnbdrestore on the embedded libvirt."""
        uri = f"qemu:///embed?root={self.root}"
        run(PROGRAMS / "embedded.py", uri, f"/usr/bin/{name}", "-U", uri, "-n", *words)

    def backup(self, level: str, target: Path) -> None:
        """Back up both disks."""
        socket = self.directory / "nbd"
        words = ("-d", "guest", "-l", level, "-o", target, "-f", socket, "-S", self.directory)
        self.tool("virtnbdbackup", *words, "-L")

    def restored(self, backup: Path) -> bytes:
        """Return what vda's backup restores to."""
        target = self.directory / f"{backup.name}-restored"
        target.mkdir()
        words = ("-i", backup, "-o", target, "-f", self.directory / "nbd-restore")
        self.tool("virtnbdrestore", *words, "-L", self.directory / "restore.log")
        raw = target / "vda.raw"
        image = target / "vda.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
        return raw.read_bytes()


@pytest.fixture
def domain(directory: Path) -> Iterator[Domain]:
    one = Domain(directory)
    one.step("start")
    yield one
    one.step("destroy")


@pytest.mark.libvirt
def test_virtnbdbackup_restores_a_full_and_two_incremental_backups(domain: Domain) -> None:
    target = domain.directory / "backup"
    domain.write(0, 3 * MIB, 1)
    domain.backup("full", target)
    domain.write(MIB, MIB, 2)
    domain.backup("inc", target)
    domain.write(5 * MIB, MIB, 3)
    domain.backup("diff", target)
    domain.write(9 * MIB, 65536, 4)
    domain.backup("inc", target)
    assert domain.restored(target) == domain.contents
