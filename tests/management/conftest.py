"""An emulator with the commands of qemu-system-x86_64."""

import pytest

from blkxact.machine.options import CommandSet
from tests.system.conftest import Emulator


@pytest.fixture
async def system():
    """Yield a fresh emulator; it is shut down after the test."""
    emulator = Emulator()
    emulator.layer.command_set = CommandSet.SYSTEM
    emulator.use(emulator.layer)
    yield emulator
    await emulator.layer.shutdown()
