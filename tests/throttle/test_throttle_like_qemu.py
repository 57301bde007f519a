"""The same commands, told to QEMU and to blkxact: the same replies."""

import json
import re

import pytest

from blkxact.errors import QmpError
from tests.emulator import Emulator
from tests.qapi.oracle import ask_qemu

pytestmark = pytest.mark.qemu

THROTTLE = {"driver": "throttle", "node-name": "t", "file": "n"}
NO_LIMITS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


def new_group(name="g", **members):
    return "object-add", {"qom-type": "throttle-group", "id": name, **members}


def get(path, name):
    return "qom-get", {"path": path, "property": name}


def put(name, value, path="g"):
    return "qom-set", {"path": path, "property": name, "value": value}


def limit(**members):
    return put("limits", {name.replace("_", "-"): value for name, value in members.items()})


def device(name="id", **members):
    return "block_set_io_throttle", {name: "d"} | NO_LIMITS | members


SCRIPT = [
    new_group(limits={"iops-total": 10}, **{"x-bps-total": 5}),
    get("g", "limits"),
    get("/objects/g", "x-bps-total"),
    get("objects/g", "type"),
    get("g", "nope"),
    get("none", "nope"),
    put("nope", 1),
    put("type", 1),
    put("nope", 1, path="none"),
    put("x-bps-total", 1),
    put("limits", 1),
    put("limits", {"iops": 1}),
    limit(iops_total="a"),
    limit(iops_total=-1),
    limit(iops_total_max_length=-1),
    limit(iops_total_max_length=2**32),
    limit(iops_total_max_length=4),
    limit(iops_total_max=4),
    limit(iops_total_max=40, iops_total_max_length=4_000_000),
    limit(iops_total_max=4 * 10**14, iops_total_max_length=4 * 10**9),
    limit(bps_total_max=4, bps_total=0),
    limit(bps_total_max_length=0),
    limit(iops_total=0, iops_total_max=0, iops_total_max_length=1, iops_size=4),
    get("g", "limits"),
    new_group("g2", **{"x-bps-total": -5}),
    new_group("g2", **{"x-bps-total-max-length": 2**32}),
    new_group("g2", **{"x-bps-total": 5, "x-bps-read": 7}),
    new_group("g2", limits={"bps-read": 7}, **{"x-bps-total": 5}),
    new_group("g2", limits={"bps-read": 7}),
    new_group("g2"),
    new_group("2g"),
    new_group(""),
    ("blockdev-add", {"driver": "null-co", "node-name": "n"}),
    ("blockdev-add", THROTTLE),
    ("blockdev-add", THROTTLE | {"throttle-group": "none"}),
    ("blockdev-add", THROTTLE | {"throttle-group": "g"}),
    ("object-del", {"id": "g"}),
    ("blockdev-reopen", {"options": [THROTTLE | {"throttle-group": "g2"}]}),
    ("blockdev-reopen", {"options": [THROTTLE | {"throttle-group": "none"}]}),
    ("object-del", {"id": "g2"}),
    ("object-del", {"id": "g"}),
    ("object-del", {"id": "g"}),
    ("query-named-block-nodes", {}),
    ("query-named-block-nodes", {"flat": True}),
    ("blockdev-del", {"node-name": "t"}),
    ("object-del", {"id": "g2"}),
    device("device", bps=1),
    device(bps=1),
    ("block_set_io_throttle", dict(NO_LIMITS)),
    ("object-add", {"qom-type": "iothread", "id": "i"}),
    get("i", "poll-max-ns"),
    put("poll-max-ns", 5, path="i"),
    put("poll-max-ns", "5", path="i"),
    get("i", "poll-max-ns"),
    get("i", "thread-pool-max"),
    ("qom-list", {"path": "none"}),
]


async def replies(commands):
    emulator = Emulator()
    for name, arguments in commands:
        try:
            yield {"return": await emulator.execute_wire(name, arguments)}
        except QmpError as error:
            yield {"error": error.as_reply()}


def plain(reply):
    reply = {name: reply[name] for name in reply if name != "id"}
    return json.loads(re.sub(r"#block\d+", "#block", json.dumps(reply)))


async def test_throttle_groups_answer_as_qemus():
    theirs = ask_qemu(SCRIPT)
    index = 0
    async for ours in replies(SCRIPT):
        assert plain(ours) == plain(theirs[index]), SCRIPT[index]
        index += 1


@pytest.mark.parametrize("qom_type", ["iothread", "throttle-group"])
async def test_objects_have_the_properties_of_qemus(qom_type):
    script = [
        ("object-add", {"qom-type": qom_type, "id": "o"}),
        ("qom-list", {"path": "o"}),
        ("qom-list", {"path": "/objects"}),
    ]
    theirs = ask_qemu(script)
    index = 0
    async for ours in replies(script):
        if index:
            key = json.dumps
            assert sorted(ours["return"], key=key) == sorted(theirs[index]["return"], key=key)
        index += 1
