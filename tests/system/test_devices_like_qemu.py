"""``device_add`` and the tree of objects beside QEMU: properties, buses, permissions, paths."""

from __future__ import annotations

import re
from typing import Any

import pytest

from blkxact.errors import QmpError
from tests.qapi.oracle import ask_qemu

from .conftest import MIB, Emulator

pytestmark = pytest.mark.qemu

MACHINE = ("-accel", "tcg", "-S")
Step = tuple[str, dict[str, Any]]


def disk(name: str, **members: Any) -> Step:
    return "blockdev-add", {"driver": "null-co", "node-name": name, "size": MIB, **members}


def add(driver: Any, **members: Any) -> Step:
    return "device_add", {"driver": driver, **members}


def hd(**members: Any) -> Step:
    """Return what fails because of a property, or else because it has no drive."""
    return add("scsi-hd", **({"drive": ""} | members))


def get(path: str, name: str) -> Step:
    return "qom-get", {"path": path, "property": name}


def put(path: str, name: str, value: Any) -> Step:
    return "qom-set", {"path": path, "property": name, "value": value}


def tree(path: str) -> Step:
    return "qom-list", {"path": path}


BUS = add("virtio-scsi-pci", id="bus0")
PROPERTIES = [
    BUS,
    disk("a"),
    disk("b"),
    *(hd(drive=value) for value in (["a"], {"a": 1}, None, 5, 1.5, True, "", "none")),
    *(hd(**{"write-cache": value}) for value in ("x", 5, True, "auto")),
    *(hd(rerror=value) for value in ("x", "enospc", False)),
    hd(werror=5),
    *(hd(bootindex=value) for value in ("x", -5, 99999999999, "5k", 1.5, "0x10", True)),
    *(hd(**{"scsi-id": value}) for value in ("1x", -1)),
    *(hd(wwn=value) for value in (-1, "0x5", "x")),
    *(hd(logical_block_size=value) for value in ("x", "4Q")),
    *(hd(removable=value) for value in ("x", "yes", 1, "n")),
    hd(serial={}),
    hd(iothread="io"),
    hd(**{"logical-block-size": 512}),
    hd(type="x"),
    hd(none=1),
    add("virtio-blk-pci", drive="a", iothread="none"),
    add("virtio-blk-pci", drive="none", **{"num-queues": 70000}),
    add("virtio-blk", none=1),
    add("nvme"),
    add("pci-bridge", chassis_nr=300),
    *(add(driver) for driver in ("none", "", 5, ["x"], None)),
    ("device_add", {"drive": "a"}),
    *(add("virtio-scsi-pci", id=value) for value in ("bus0", "5x", "", 5, None, [1])),
    *(hd(bus=value) for value in ("none", "bus0", "", "pci.0", 5, "bus0.0/x", "/bus0", [1])),
    add("virtio-blk-pci", drive="a", bus="bus0.0"),
    add("virtio-blk-pci", drive="a", bus="pci.0", id="v"),
    add("scsi-hd", drive="b", bus="bus0.0", id="w", **{"write-cache": False, "rerror": "ignore"}),
    add("scsi-hd", drive="b", id="w"),
    get("w", "share-rw"),
    get("w", "write-cache"),
    get("w", "rerror"),
    get("w", "werror"),
    get("w", "serial"),
    ("query-block", {}),
]
PERMISSIONS = [
    BUS,
    add("usb-ehci", id="usb"),
    *(disk(name) for name in ("a", "t", "b", "n")),
    disk("r", **{"read-only": True}),
    (
        "blockdev-backup",
        {"device": "a", "target": "t", "sync": "none", "job-id": "j", "filter-node-name": "f"},
    ),
    add("scsi-hd", id="d1", drive="t"),
    add("virtio-blk-pci", id="d1", drive="t"),
    add("scsi-hd", id="d1", drive="t", **{"share-rw": True}),
    add("scsi-cd", id="d1", drive="t", **{"share-rw": "on"}),
    add("virtio-blk-pci", id="d1", drive="t", **{"share-rw": "on"}),
    add("scsi-hd", id="d2", drive="a"),
    add("scsi-cd", id="cd", drive="b"),
    ("block_resize", {"node-name": "b", "size": 2 * MIB}),
    add("scsi-cd", id="empty"),
    add("scsi-cd", id="lax", werror="report"),
    add("nvme", id="nv", drive="n", serial="s"),
    ("block_resize", {"node-name": "n", "size": 2 * MIB}),
    ("block_resize", {"node-name": "r", "size": 2 * MIB}),
    ("block_resize", {"node-name": "a", "size": 2 * MIB}),
    add("usb-storage", id="stick", drive="none"),
    add("scsi-hd", id="ro", drive="r"),
]
PATHS = [
    BUS,
    *(disk(name) for name in ("a", "b", "c", "r")),
    add("scsi-hd", id="w", drive="a"),
    *(get(path, "type") for path in ("/", "objects", "/machine/peripheral", "", "none")),
    *(get(path, "none") for path in ("/", "/objects", "/machine/peripheral", "peripheral-anon")),
    *(put("/objects", name, 1) for name in ("none", "type")),
    *(put("/machine/peripheral", name, 1) for name in ("none", "type", "w")),
    get("/machine/peripheral", "w"),
    tree("/objects/none"),
    tree("/machine/peripheral-anon"),
    add("virtio-blk-pci", drive="b"),
    add("virtio-blk-pci", drive="none"),
    tree("/machine/peripheral-anon"),
    tree("virtio-backend"),
    tree(""),
    get("/machine/peripheral-anon/device[0]", "virtio-backend"),
    get("/machine/peripheral-anon/device[0]", "type"),
    *(get("/machine/peripheral-anon/device[0]/virtio-backend", n) for n in ("type", "drive", "x")),
    add("virtio-blk-pci", id="v", drive="c"),
    *(get("/machine/peripheral/v/virtio-backend", name) for name in ("type", "drive", "serial")),
    get("/machine/peripheral/w/virtio-backend", "drive"),
    get("device[0]/virtio-backend", "drive"),
    *(get("w", name) for name in ("type", "drive", "realized", "hotplugged", "id")),
    *(put("w", name, "x") for name in ("type", "none", "serial", "hotplugged", "drive")),
    put("w", "drive", ["x"]),
    put("/machine/peripheral-anon/device[0]/virtio-backend", "drive", "r"),
    *(
        ("eject", {"id": name})
        for name in ("w", "bus0", "v/virtio-backend", "none", "", "/machine")
    ),
    *(("device_del", {"id": name}) for name in ("none", "", "/machine/peripheral-anon/none")),
]


def without_generated(reply: Any) -> Any:
    """Return a reply without what is QEMU's choice or is no business of devices."""
    if isinstance(reply, dict):
        return {k: without_generated(v) for k, v in reply.items() if k not in ("id", "inserted")}
    if isinstance(reply, list):
        return [without_generated(item) for item in reply]
    return re.sub(r"#block\d+", "#block", reply) if isinstance(reply, str) else reply


@pytest.mark.parametrize("script", [PROPERTIES, PERMISSIONS, PATHS])
async def test_devices_are_answered_as_qemus(script: list[Step]) -> None:
    emulator = Emulator()
    for (name, arguments), theirs in zip(script, ask_qemu(script, MACHINE), strict=True):
        try:
            ours = {"return": await emulator.execute_wire(name, arguments)}
        except QmpError as error:
            ours = {"error": error.as_reply()}
        assert without_generated(ours) == without_generated(theirs), (name, arguments)
    await emulator.layer.shutdown()
