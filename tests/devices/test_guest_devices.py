"""Devices that only a guest would use: QEMU's names, plugged in without an effect."""

import re
import subprocess

import pytest

from blkxact.errors import QmpError
from blkxact.machine.guest_devices import ALIASES, CONTROLLERS, DEVICES, PCI
from blkxact.machine.models import MODELS
from tests.emulator import Emulator

NAMES = sorted({*" ".join([*CONTROLLERS.values(), *DEVICES.values()]).split(), *ALIASES})


@pytest.mark.qemu
def test_models_and_their_buses_are_qemus():
    command = ["qemu-system-x86_64", "-device", "help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    line = re.compile(r'name "([^"]+)"(?:, bus ([^,\n]+))?(?:, alias "([^"]+)")?')
    buses = {}
    for name, bus, alias in line.findall(text):
        buses |= {name: bus, alias: bus}
    theirs = {name: buses[name] or "System" for name in NAMES}
    assert {name: MODELS[name].bus for name in NAMES} == theirs


@pytest.fixture
async def emulator():
    made = Emulator()
    yield made
    await made.layer.shutdown()


@pytest.mark.parametrize("name", NAMES)
async def test_device_of_a_guest_is_taken_with_any_properties(emulator, name):
    await emulator.execute("device_add", driver=name, id="x", netdev="n", mac="52:54:00:00:00:01")
    path = "/machine/peripheral/x"
    assert await emulator.execute("qom-get", path=path, property="type") == MODELS[name].name
    assert await emulator.execute("qom-get", path=path, property="netdev") == "n"
    assert await emulator.execute("query-block") == []
    await emulator.execute("device_del", id="x")


async def test_disk_is_plugged_into_the_bus_of_a_port(emulator):
    await emulator.create_disk("d")
    await emulator.add_disk("d")
    await emulator.execute("device_add", driver="pcie-root-port", id="pci.1", chassis=1)
    await emulator.execute("device_add", driver="virtio-blk-pci", bus="pci.1", drive="d")
    with pytest.raises(QmpError, match=r"Bus 'pci.2' not found"):
        await emulator.execute("device_add", driver="virtio-blk-pci", bus="pci.2", drive="d")


async def test_devices_of_a_guest_are_types_by_their_own_names_only(emulator):
    types = await emulator.execute("qom-list-types", implements="device")
    names = {one["name"] for one in types}
    assert set(NAMES) - names == ALIASES.keys()
    assert {"name": "e1000", "parent": "pci-device"} in types
    assert MODELS["e1000"].bus == PCI
    assert await emulator.execute("device-list-properties", typename="e1000") == []
