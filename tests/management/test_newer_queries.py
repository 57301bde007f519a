"""Small commands and members of QEMU 9.2 to 11.1 that concern objects, devices and exports."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from blkxact.errors import ErrorClass, QmpError
from blkxact.machine.options import MachineOptions
from blkxact.runtime.release import RELEASES
from tests.emulator import Emulator

SINCE = {
    "device-sync-config": "9.2",
    "qom-list-get": "11.1",
    "query-accelerators": "11.1",
    "x-accel-stats": "11.1",
}


def of_release(version: str) -> Emulator:
    emulator = Emulator()
    emulator.emulate(version)
    return emulator


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = of_release("11.1")
    yield emulator
    await emulator.layer.shutdown()


@pytest.mark.parametrize("version", list(RELEASES))
async def test_commands_are_there_from_their_release_on(version: str) -> None:
    emulator = of_release(version)
    names = {one["name"] for one in await emulator.execute("query-commands")}
    order = list(RELEASES)
    new = {name for name, since in SINCE.items() if order.index(since) <= order.index(version)}
    assert names & SINCE.keys() == new
    await emulator.layer.shutdown()


@pytest.mark.parametrize("name", ["kvm", "qtest", "tcg"])
async def test_accelerator_is_that_of_the_command_line(emulator: Emulator, name: str) -> None:
    emulator.layer.machine.options = MachineOptions(accelerator=name)
    found = await emulator.execute("query-accelerators")
    assert found == {"enabled": name, "present": ["kvm", "qtest", "tcg"]}
    assert (await emulator.execute("query-kvm"))["enabled"] is (name == "kvm")
    assert await emulator.execute("x-accel-stats") == {"human-readable-text": ""}


async def test_properties_of_several_objects_are_read_at_once(emulator: Emulator) -> None:
    await emulator.execute("object-add", qom_type="iothread", id="i", poll_max_ns=7)
    objects, thread = await emulator.execute("qom-list-get", paths=["/objects", "i"])
    assert objects["properties"] == [
        {"name": "type", "type": "string", "value": "container"},
        {"name": "i", "type": "child<iothread>", "value": "/objects/i"},
    ]
    values = {one["name"]: one["value"] for one in thread["properties"]}
    assert values["type"] == "iothread"
    assert values["poll-max-ns"] == 7
    listed = await emulator.execute("qom-list", path="/objects/i")
    assert [one["name"] for one in listed] == [one["name"] for one in thread["properties"]]
    with pytest.raises(QmpError, match=r"^Device '/nothing' not found$"):
        await emulator.execute("qom-list-get", paths=["/objects", "/nothing"])
    assert await emulator.execute("qom-list-get", paths=[]) == []


async def test_no_device_has_a_configuration_to_synchronise(emulator: Emulator) -> None:
    """The texts are those of QEMU 10.0."""
    await emulator.execute("blockdev-add", driver="null-co", node_name="n")
    emulator.layer.devices.add({"driver": "virtio-blk-pci", "id": "v", "drive": "n"})
    for name in ("v", "/machine/peripheral/v"):
        with pytest.raises(QmpError) as caught:
            await emulator.execute("device-sync-config", id=name)
        reason = "device-sync-config is not supported for 'virtio-blk-device'"
        assert caught.value.desc == reason
    with pytest.raises(QmpError, match=r"^Device 'x' not found$") as caught:
        await emulator.execute("device-sync-config", id="x")
    assert caught.value.error_class is ErrorClass.GENERIC_ERROR
    with pytest.raises(QmpError, match=r"^/machine is not a device$"):
        await emulator.execute("device-sync-config", id="/machine")


@pytest.mark.parametrize(("version", "word"), [("7.2", "hotpluggable "), ("10.0", "")])
async def test_what_is_no_device_is_named_in_the_words_of_the_release(
    version: str, word: str
) -> None:
    emulator = of_release(version)
    for command in ("device_del", "eject"):
        with pytest.raises(QmpError) as caught:
            await emulator.execute(command, id="/machine")
        assert caught.value.desc == f"/machine is not a {word}device"
    await emulator.layer.shutdown()


# Iothreads


@pytest.mark.parametrize(("version", "weight", "grow"), [("10.0", None, 0), ("11.1", 3, 2)])
async def test_iothread_shows_the_numbers_of_its_release(
    version: str, weight: int | None, grow: int
) -> None:
    emulator = of_release(version)
    await emulator.execute("object-add", qom_type="iothread", id="i", poll_grow=0)
    (info,) = await emulator.execute("query-iothreads")
    assert (info.get("poll-weight"), info["poll-grow"], info["poll-shrink"]) == (
        weight,
        grow,
        grow,
    )
    names = {one["name"] for one in await emulator.execute("qom-list", path="/objects/i")}
    assert ("poll-weight" in names) is (weight is not None)
    listed = await emulator.execute("qom-list-properties", typename="iothread")
    assert names == {one["name"] for one in listed}
    await emulator.layer.shutdown()


async def test_poll_weight_has_its_range(emulator: Emulator) -> None:
    reason = r"^poll-weight value must be in range \[0, 63\]$"
    with pytest.raises(QmpError, match=reason):
        await emulator.execute("object-add", qom_type="iothread", id="i", poll_weight=64)
    assert await emulator.execute("query-iothreads") == []
    await emulator.execute("object-add", qom_type="iothread", id="i", poll_weight=63)
    with pytest.raises(QmpError, match=reason):
        await emulator.execute("qom-set", path="i", property="poll-weight", value=-1)
    await emulator.execute("qom-set", path="i", property="poll-weight", value=0)
    assert await emulator.execute("qom-get", path="i", property="poll-weight") == 3


async def test_iothread_with_a_negative_number_is_refused() -> None:
    emulator = of_release("7.2")
    with pytest.raises(QmpError, match=r"^poll-max-ns value must be in range \[0, 922337203685477"):
        await emulator.execute("object-add", qom_type="iothread", id="i", poll_max_ns=-1)
    with pytest.raises(QmpError, match=r"^Parameter 'poll-weight' is unexpected$"):
        await emulator.execute("object-add", qom_type="iothread", id="i", poll_weight=1)
    await emulator.layer.shutdown()


# Exports in several iothreads

EXPORT = {"type": "nbd", "id": "e", "node_name": "n"}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"iothread": []}, "The set of I/O threads must not be empty"),
        ({"iothread": ["i", "x"]}, 'iothread "x" not found'),
        ({"iothread": ["i"]}, "NBD export does not support multi-threading"),
        (
            {"iothread": ["i"], "fixed_iothread": True},
            "Cannot use fixed-iothread for a multi-threaded export",
        ),
    ],
)
async def test_nbd_export_runs_in_one_iothread(
    emulator: Emulator, members: dict[str, object], reason: str, tmp_path: object
) -> None:
    """The texts are those of QEMU 11.1."""
    address = {"type": "unix", "data": {"path": f"{tmp_path}/nbd"}}
    await emulator.execute("nbd-server-start", addr=address)
    await emulator.execute("blockdev-add", driver="null-co", node_name="n")
    await emulator.execute("object-add", qom_type="iothread", id="i")
    with pytest.raises(QmpError) as caught:
        await emulator.execute("block-export-add", **EXPORT, **members)
    assert caught.value.desc == reason
    assert await emulator.execute("query-block-exports") == []
    await emulator.execute("block-export-add", **EXPORT, iothread="i")


async def test_older_release_takes_one_name_only() -> None:
    emulator = of_release("10.0")
    reason = r"^Invalid parameter type for 'iothread', expected: string$"
    with pytest.raises(QmpError, match=reason):
        await emulator.execute("block-export-add", **EXPORT, iothread=["i"])
    await emulator.layer.shutdown()
