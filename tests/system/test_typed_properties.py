"""``device_add`` since QEMU 9.2: properties have types. The replies are those of QEMU 10.0."""

from __future__ import annotations

import random
from typing import Any

import pytest

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.events import EventSink
from blkxact.runtime.release import RELEASES

from .conftest import MIB, Emulator


async def emulator_of(release: str) -> Emulator:
    emulator = Emulator()
    clock = SystemClock()
    layer = BlockLayer(
        emulator.storage,
        clock,
        EventSink(clock),
        rng=random.Random(2),
        release=RELEASES[release],
    )
    emulator.use(layer)
    await emulator.execute("blockdev-add", driver="null-co", node_name="n", size=4 * MIB)
    return emulator


REFUSED = [
    ({"driver": 1}, "Parameter 'driver' is missing"),
    ({"driver": "scsi-hd", "drive": 1}, "Invalid parameter type for 'drive', expected: string"),
    (
        {"driver": "scsi-hd", "drive": "n", "share-rw": "on"},
        "Invalid parameter type for 'share-rw', expected: boolean",
    ),
    (
        {"driver": "scsi-hd", "drive": "n", "write-cache": True},
        "Invalid parameter type for 'write-cache', expected: string",
    ),
    (
        {"driver": "scsi-hd", "drive": "n", "werror": "nope"},
        "Parameter 'werror' does not accept value 'nope'",
    ),
    ({"driver": "scsi-hd", "drive": "n", "scsi-id": "1"}, "Parameter 'scsi-id' expects uint64"),
    ({"driver": "scsi-hd", "drive": "n", "scsi-id": 1.5}, "Parameter 'scsi-id' expects uint64"),
    ({"driver": "scsi-hd", "drive": "n", "scsi-id": 2**33}, "Parameter 'scsi-id' expects uint32_t"),
    ({"driver": "scsi-hd", "drive": "n", "wwn": True}, "Parameter 'wwn' expects uint64"),
    (
        {"driver": "scsi-hd", "drive": "n", "min_io_size": -1},
        f"Property scsi-hd.min_io_size doesn't take value {2**64 - 1} (maximum: {2**32 - 1})",
    ),
    (
        {"driver": "scsi-hd", "drive": "n", "bootindex": "x"},
        "Invalid parameter type for 'bootindex', expected: integer",
    ),
    (
        {"driver": "virtio-blk-pci", "drive": "n", "addr": []},
        "Invalid parameter type for 'addr', expected int or str",
    ),
    (
        {"driver": "virtio-blk-pci", "drive": "n", "addr": "5.8"},
        "Property 'virtio-blk-pci.addr' doesn't take value '5.8'",
    ),
    (
        {"driver": "virtio-blk-pci", "drive": "n", "addr": 256},
        "Parameter 'addr' expects a value between -1 and 255",
    ),
    (
        {"driver": "scsi-hd", "drive": "n", "serial": None},
        "Invalid parameter type for 'serial', expected: string",
    ),
    ({"driver": "scsi-hd", "bus": "x", "id": "1", "drive": "n"}, "Bus 'x' not found"),
]


@pytest.mark.parametrize(("members", "message"), REFUSED)
async def test_property_of_another_type_is_refused(members: dict[str, Any], message: str) -> None:
    emulator = await emulator_of("10.0")
    with pytest.raises(QmpError) as caught:
        await emulator.execute_wire("device_add", members)
    assert caught.value.desc == message
    assert await emulator.execute("query-block") == []
    await emulator.layer.shutdown()


@pytest.mark.parametrize(
    "members",
    [
        {"id": "1", "bus": 5},
        {"id": 5},
        {"scsi-id": 3, "share-rw": True, "write-cache": "off", "wwn": -1},
    ],
)
async def test_property_of_its_own_type_is_taken(members: dict[str, Any]) -> None:
    emulator = await emulator_of("10.0")
    await emulator.execute_wire("device_add", {"driver": "scsi-hd", "drive": "n", **members})
    [disk] = await emulator.execute("query-block")
    assert disk["inserted"]["node-name"] == "n"
    await emulator.layer.shutdown()


@pytest.mark.parametrize(
    ("release", "message"),
    [("7.2", "Parameter 'id' expects an identifier"), ("11.1", "Invalid qdev ID '1'")],
)
async def test_id_that_is_not_well_formed_is_refused(release: str, message: str) -> None:
    emulator = await emulator_of(release)
    with pytest.raises(QmpError) as caught:
        await emulator.execute_wire("device_add", {"driver": "scsi-hd", "drive": "n", "id": "1"})
    assert caught.value.desc == message
    await emulator.layer.shutdown()


@pytest.mark.parametrize(("release", "is_refused"), [("7.2", True), ("10.0", False)])
async def test_disk_of_a_job_is_plugged_in(release: str, *, is_refused: bool) -> None:
    emulator = await emulator_of(release)
    await emulator.execute("blockdev-add", driver="null-co", node_name="t", size=4 * MIB)
    await emulator.execute(
        "blockdev-mirror", device="n", target="t", sync="none", job_id="j", filter_node_name="f"
    )
    add = {"driver": "scsi-cd", "drive": "n"}
    if is_refused:
        with pytest.raises(QmpError, match=r"Node 'n' is busy: .* by block job: mirror"):
            await emulator.execute_wire("device_add", add)
    else:
        await emulator.execute_wire("device_add", add)
    await emulator.layer.shutdown()
