"""An emulator with the commands of qemu-system-x86_64."""

import pytest

from blkxact.options import CommandSet
from tests.system.conftest import House


@pytest.fixture
async def system():
    """Yield a fresh emulator; it is shut down after the test."""
    house = House()
    house.layer.command_set = CommandSet.SYSTEM
    house.use(house.layer)
    yield house
    await house.layer.shutdown()
