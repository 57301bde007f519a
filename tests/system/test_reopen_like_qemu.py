"""``blockdev-reopen`` beside QEMU: the same replies to the same commands, and the same nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blkxact.errors import QmpError
from blkxact.storage.os_file import OsStorage
from tests.qapi.oracle import ask_qemu

from .conftest import Emulator

pytestmark = pytest.mark.qemu

Members = dict[str, Any]
Step = tuple[str, Members]

ABSENT = object()
"""A value that takes a member away."""


def add(**members: Any) -> Step:
    return "blockdev-add", _wire(members)


def change(base: Members, **members: Any) -> Members:
    """Return the options with other members; ``file__x`` is a member of ``file``."""
    result = json.loads(json.dumps(base))
    for path, value in members.items():
        *parents, name = path.replace("___", ".").replace("__", "/").replace("_", "-").split("/")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place.pop(name, None)
        if value is not ABSENT:
            place[name] = value
    return result


def reopen(*options: Members) -> Step:
    return "blockdev-reopen", {"options": list(options)}


def _wire(members: Members) -> Members:
    return {name.replace("_", "-"): value for name, value in members.items()}


def image(name: str, file: str, **more: Any) -> Members:
    """Return the options of a qcow2 node whose file node is ``NAME-file``."""
    below = {"driver": "file", "node-name": f"{name}-file", "filename": file}
    return change({"driver": "qcow2", "node-name": name, "file": below}, **more)


HD, OVER = image("hd", "hd.qcow2"), image("over", "over.qcow2")
OLD = image("old", "old.qcow2")
EXT = image("ext", "ext.qcow2")
RAW = {"driver": "raw", "node-name": "r", "file": {"driver": "file", "filename": "a.raw"}}
NULL = {"driver": "null-co", "node-name": "n", "size": 1 << 20}
THROTTLE = {"driver": "throttle", "node-name": "t", "throttle-group": "g", "file": "n"}
DEBUG = {"driver": "blkdebug", "node-name": "d", "image": "n", "align": 1024}
FORCED = image("hd", "hd.qcow2", read_only=True, force_share=True)
GROUPS = [("object-add", {"qom-type": "throttle-group", "id": name}) for name in ("g", "h")]


def adds(*nodes: Members) -> list[Step]:
    return [("blockdev-add", node) for node in nodes]


def reopens(base: Members, *changes: Members) -> list[Step]:
    """Return a reopen for each change of the options; each is undone by the next."""
    return [reopen(change(base, **members)) for members in ({}, *changes, {})]


SCENARIOS: dict[str, list[Step]] = {
    "file of a format": [
        *adds(HD, OVER, {"driver": "blkdebug", "node-name": "below", "image": "hd-file"}),
        *reopens(HD, {"file": "below"}, {"file": "hd-file"}, {"file": "over-file"}),
        *reopens(HD, {"file": "below"}, {"file": None}),
    ],
    "names": [
        *adds(HD),
        *reopens(
            HD,
            {"node_name": ABSENT},
            {"node_name": "none"},
            {"node_name": "hd-file"},
            {"driver": "raw"},
            {"file": "hd-file"},
            {"file": "none"},
            {"file": ""},
            {"file__node_name": "other"},
            {"file__node_name": ABSENT},
            {"file__filename": "over.qcow2"},
            {"file__driver": "null-co", "file__filename": ABSENT, "file__node_name": ABSENT},
            {"backing": None},
            {"backing": "none"},
            {"backing": "hd"},
            {"backing": "hd-file"},
            {"backing": NULL},
        ),
    ],
    "common options": [
        *adds(HD),
        *reopens(
            HD,
            {"read_only": True},
            {"read_only": True, "file": "hd-file"},
            {"file": "hd-file"},
            {},
            {"cache__no_flush": True},
            {"cache__no_flush": True, "file__cache__no_flush": False},
            {"detect_zeroes": "on"},
            {"detect_zeroes": "unmap"},
            {"detect_zeroes": "unmap", "discard": "unmap"},
            {"discard": "unmap"},
            {"discard": "ignore"},
            {"force_share": True},
            {"read_only": True, "force_share": True},
            {"auto_read_only": True},
            {"auto_read_only": True, "read_only": True},
            {"file__discard": "ignore"},
            {"file__detect_zeroes": "on"},
            {"file__read_only": True},
            {"file__read_only": True, "read_only": True},
        ),
    ],
    "force-share": [
        *adds(FORCED),
        *reopens(FORCED, {"force_share": ABSENT}, {"force_share": False}, {"read_only": False}),
    ],
    "options of file": [
        *adds(change(HD, file__locking="off", file__x_check_cache_dropped=True)),
        *reopens(
            change(HD, file__locking="off"),
            {"file__locking": "on"},
            {"file__locking": ABSENT},
            {"file__x_check_cache_dropped": True},
            {"file__drop_cache": False},
            {"file__aio": "threads"},
            {"file__aio": "native"},
            {"file__aio_max_batch": 1},
            {"file__pr_manager": "none"},
        ),
        reopen({"driver": "file", "node-name": "hd-file", "filename": "hd.qcow2"}),
        reopen(
            {"driver": "file", "node-name": "hd-file", "filename": "hd.qcow2", "locking": "off"}
        ),
    ],
    "options of file kept": [
        *adds(change(HD, file__aio="threads", file__drop_cache=False)),
        *reopens(
            HD,
            {"file__aio": "threads"},
            {"file__aio": "threads", "file__drop_cache": False},
            {"file": "hd-file"},
        ),
    ],
    "options of qcow2": [
        *adds(change(HD, l2_cache_size=1 << 20), OLD),
        *reopens(
            HD,
            {"l2_cache_entry_size": 128 << 10},
            {"l2_cache_entry_size": 600},
            {"l2_cache_size": 1 << 20, "cache_size": 1 << 19},
            {"refcount_cache_size": 1 << 20, "cache_size": 1 << 19},
            {"refcount_cache_size": 1, "cache_size": 3, "l2_cache_size": 1},
            {"refcount_cache_size": 1 << 60},
            {"l2_cache_size": 1 << 60},
            {"l2_cache_size": -1},
            {"cache_clean_interval": 1 << 40},
            {"cache_clean_interval": 5},
            {"lazy_refcounts": True},
            {"overlap_check": "all"},
            {"overlap_check": {"template": "none", "main-header": True}},
            {"pass_discard_request": True, "pass_discard_other": True},
        ),
        *reopens(OLD, {"lazy_refcounts": True}),
        *adds(image("x", "old.qcow2", read_only=True, lazy_refcounts=True)),
        *adds(image("x", "over.qcow2", l2_cache_entry_size=600, backing=None)),
        *adds(image("x", "over.qcow2", l2_cache_size=2, cache_size=1, backing=None)),
    ],
    "backing from the header": [
        *adds(OVER),
        *reopens(
            OVER,
            {"backing": None},
            {"backing": "hd"},
        ),
        *adds(HD),
        *reopens(OVER, {"backing": "hd"}, {"backing": HD}, {"backing": None}),
    ],
    "backing inline": [
        *adds(change(OVER, backing=HD)),
        *reopens(
            change(OVER, backing=HD),
            {"backing": "hd"},
            {"backing": "none"},
            {"backing": "over"},
            {"backing__node_name": "other"},
            {"backing__driver": "raw"},
            {"backing__read_only": False},
            {"backing__file__node_name": "other"},
            {"backing__file__driver": "null-co", "backing__file__filename": ABSENT},
            {"backing__detect_zeroes": "on"},
            {"backing": ABSENT},
            {"read_only": True},
            {"backing": None},
        ),
    ],
    "several nodes": [
        *adds(HD, change(OVER, backing="hd")),
        reopen(HD, change(OVER, backing="hd")),
        reopen(change(HD, read_only=True), change(OVER, backing=None, read_only=True)),
        reopen(change(HD, backing="over"), change(OVER, backing=None)),
        reopen(change(HD, backing="over"), change(OVER, backing="hd")),
        reopen(change(HD, backing=None), change(OVER, backing="hd", driver="raw")),
        reopen(HD, HD),
        reopen(
            HD, {"driver": "file", "node-name": "hd-file", "filename": "hd.qcow2", "locking": "on"}
        ),
    ],
    "raw": [
        *adds(RAW),
        *reopens(
            RAW,
            {"offset": 512},
            {"offset": 512, "size": 1024},
            {"size": 1 << 20},
            {"size": 5},
            {"size": 1 << 40},
            {"offset": 1 << 40},
            {"offset": 0},
            {"offset": -1},
            {"backing": None},
            {"file__locking": "off"},
            {"file": "n"},
        ),
        *adds(change(RAW, node_name="s", offset=512, size=1024)),
        *reopens(change(RAW, node_name="s"), {"size": 2048}),
        *adds(NULL),
        *reopens(RAW, {"file": "n"}),
        reopen(change(RAW, file="n", size=512)),
    ],
    "raw above a named node": [
        *adds(NULL, change(NULL, node_name="m"), change(RAW, file="n")),
        *reopens(
            change(RAW, file="n"),
            {"file": "m"},
            {"file": "r"},
            {"file": NULL},
            {"read_only": True},
        ),
        ("blockdev-del", {"node-name": "m"}),
        ("blockdev-del", {"node-name": "n"}),
    ],
    "null": [
        *adds(NULL),
        *reopens(
            NULL,
            {"size": 1024},
            {"size": ABSENT},
            {"latency_ns": 5},
            {"read_zeroes": True},
            {"read_only": True},
            {"detect_zeroes": "on"},
            {"driver": "null-aio"},
        ),
    ],
    "throttle": [
        *GROUPS,
        *adds(NULL, change(NULL, node_name="m"), THROTTLE),
        *reopens(
            THROTTLE,
            {"throttle_group": "h"},
            {"throttle_group": "none"},
            {"file": "m"},
            {"file": "t"},
            {"read_only": True},
        ),
    ],
    "blkdebug": [
        *adds(NULL, change(NULL, node_name="m"), DEBUG),
        *reopens(
            DEBUG,
            {"align": 512},
            {"align": ABSENT},
            {"image": "m"},
            {"inject_error": [{"event": "read_aio"}]},
            {"read_only": True},
        ),
    ],
    "filters without a reopen": [
        *adds(
            HD,
            OLD,
            {"driver": "copy-before-write", "node-name": "cbw", "file": "hd", "target": "old"},
            {"driver": "compress", "node-name": "c", "file": "hd"},
            {"driver": "snapshot-access", "node-name": "sa", "file": "cbw"},
        ),
        reopen({"driver": "copy-before-write", "node-name": "cbw", "file": "hd", "target": "old"}),
        reopen({"driver": "compress", "node-name": "c", "file": "hd"}),
        reopen({"driver": "raw", "node-name": "c", "file": "hd"}),
        reopen({"driver": "compress", "node-name": "c", "file": "hd", "detect-zeroes": "unmap"}),
        reopen({"driver": "snapshot-access", "node-name": "sa", "file": "cbw"}),
        *reopens(HD, {"read_only": True}),
    ],
    "data file": [
        *adds(EXT),
        *reopens(
            EXT,
            {"data_file": "none"},
            {"data_file": {"driver": "file", "filename": "ext.data"}},
            {"data_file": {"driver": "file", "filename": "a.raw"}},
        ),
    ],
}


@pytest.fixture
def images(image_dir: Path, monkeypatch: pytest.MonkeyPatch, qemu_img: Any) -> None:
    monkeypatch.chdir(image_dir)
    with Path("a.raw").open("wb") as file:
        file.truncate(1 << 20)
    create = ("create", "-q", "-f", "qcow2")
    qemu_img(*create, "hd.qcow2", "1M")
    qemu_img(*create, "-b", "hd.qcow2", "-F", "qcow2", "over.qcow2")
    qemu_img(*create, "-o", "compat=0.10", "old.qcow2", "1M")
    qemu_img(*create, "-o", "data_file=ext.data", "ext.qcow2", "1M")


def with_states(steps: list[Step]) -> Iterator[Step]:
    """Look at the nodes after each step."""
    for step in steps:
        yield step
        yield "query-named-block-nodes", {}


def run_qemu(steps: list[Step]) -> list[Any]:
    return [outcome(reply) for reply in ask_qemu(list(with_states(steps)))]


async def run_ours(steps: list[Step]) -> list[Any]:
    emulator = Emulator(OsStorage())
    outcomes = []
    for name, args in with_states(steps):
        try:
            reply = {"return": await emulator.execute_wire(name, args)}
        except QmpError as error:
            reply = {"error": {"desc": error.desc}}
        outcomes.append(outcome(reply))
    await emulator.layer.blockdev.close_all()
    return outcomes


def outcome(reply: Members) -> Any:
    """Return the part of a reply that must be the same."""
    if "error" in reply:
        return re.sub(r"#block\d+", "#block", reply["error"]["desc"])
    nodes = reply["return"]
    return sorted(map(describe, nodes)) if isinstance(nodes, list) else nodes


def describe(node: Members) -> str:
    names = ("node-name", "drv", "ro", "detect_zeroes", "cache", "backing_file_depth")
    shown = {name: node[name] for name in names}
    file = node["image"]["filename"]
    shown["file"] = json.loads(file[5:]) if file.startswith("json:") else file
    shown["size"] = node["image"]["virtual-size"]
    return re.sub(r"#block\d+", "#block", json.dumps(shown, sort_keys=True))


def _only(one: Any, other: Any) -> Any:
    """Return what one outcome has and the other has not."""
    if isinstance(one, list) and isinstance(other, list):
        return [item for item in one if item not in other]
    return one


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("name", SCENARIOS)
async def test_replies_and_nodes_after_each_reopen_are_qemus(name: str) -> None:
    steps = SCENARIOS[name]
    theirs, ours = run_qemu(steps), await run_ours(steps)
    results = zip(map(json.dumps, with_states(steps)), ours, theirs, strict=True)
    different = [
        f"{step}\n  here: {_only(here, there)}\n  QEMU: {_only(there, here)}"
        for step, here, there in results
        if here != there
    ]
    assert not different, "\n".join(different)
