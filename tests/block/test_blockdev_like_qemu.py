"""The same commands to QEMU and to blkxact: the same refusals, the same nodes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.environment import environment
from tests.qapi.oracle import ask_qemu

from blkxact.blockdev.blockdev import Blockdev
from blkxact.errors import QmpError

pytestmark = pytest.mark.qemu

Step = tuple[str, dict]


def add(driver, name=None, **more) -> Step:
    members = {"driver": driver, **({} if name is None else {"node-name": name}), **more}
    return "blockdev-add", {key.replace("_", "-"): value for key, value in members.items()}


def delete(name) -> Step:
    return "blockdev-del", {"node-name": name}


def image(path, **more):
    return {"driver": "file", "filename": path, **more}


NAMES = [
    add("null-co", "n"),
    add("null-co", "n"),
    add("null-co", "9x"),
    add("null-co", ""),
    add("null-co"),
    add("null-co", "x" * 31),
    add("null-co", "x" * 32),
    add("null-co", "a.b-c_d"),
    delete("nosuch"),
    delete("n"),
    add("null-co", "n"),
]

PROTOCOLS = [
    add("null-co", "l", latency_ns=-5),
    add("file", "f", filename="nosuch.raw"),
    add("file", "f", filename="."),
    add("file", "f", filename=".", read_only=True),
    add("file", "f", filename=""),
    add("file", "f", filename="/dev/null"),
    add("file", "f", filename="a.raw", aio="native"),
    add("file", "f", filename="a.raw", force_share=True),
    add("file", "f", filename="a.raw", detect_zeroes="unmap"),
    add("file", "f", filename="a.raw", detect_zeroes="unmap", discard="unmap"),
]

RAW = [
    add("null-co", "n"),
    add("raw", "r", file="n"),
    add("raw", "r2", file="n", size=5),
    add("raw", "r2", file="n", size=512, offset=2**31),
    add("raw", "r2", file="n", size=2**31),
    add("raw", "r2", file="nosuch"),
    add("raw", "r2", file="r2"),
    add("raw", "r2", file="n", size=512),
    add("raw", "r3", file={"driver": "null-co", "node-name": "r3"}),
    add("raw", "r3", file={"driver": "null-co", "node-name": "n"}),
    delete("n"),
    delete("r"),
    delete("r2"),
    delete("n"),
]

CHAINS = [
    add("qcow2", "q", file=image("q.qcow2", **{"node-name": "qf"})),
    add("qcow2", "q2", file="qf"),
    add("qcow2", "q2", file=image("q.qcow2")),
    add("qcow2", "q2", file=image("q.qcow2"), read_only=True),
    add("qcow2", "q2", file="qf", backing="nosuch"),
    add("qcow2", "top", file=image("lost.qcow2")),
    add("qcow2", "top", file=image("foreign.qcow2")),
    add("qcow2", "top", file=image("lost.qcow2"), backing="nosuch"),
    add("qcow2", "top", file=image("lost.qcow2"), backing="top"),
    add("qcow2", "top", file=image("lost.qcow2"), backing="q"),
    add("qcow2", "bare", file=image("lost.qcow2"), backing=None),
    delete("q"),
    delete("qf"),
    delete("top"),
    add("qcow2", "bare", file=image("lost.qcow2"), backing=None),
    delete("bare"),
    add("qcow2", "over", file=image("over.qcow2"), read_only=True),
    delete("over"),
    add("qcow2", "over", file=image("over.qcow2")),
    delete("q"),
    delete("over"),
    delete("q"),
    add("qcow2", "over", file=image("over.qcow2")),
    add("qcow2", "raw", file=image("a.raw")),
]

FILTERS = [
    add("raw", "source", file=image("a.raw")),
    add("qcow2", "target", file=image("q.qcow2")),
    add("blkdebug", "debug", image="source"),
    delete("source"),
    add("copy-before-write", "cbw", file="source", target="target"),
    add("copy-before-write", "cbw2", file="source", target="nosuch"),
    delete("target"),
    delete("cbw"),
    delete("debug"),
    delete("target"),
    delete("source"),
    add("blkdebug", "debug", image=image("nosuch")),
    add("blkdebug", "debug", image=image("a.raw"), read_only=True),
]

FILENAMES = [
    add("null-co", "n", size=4096),
    add("null-co", "z", read_zeroes=True),
    add("raw", "r", file="n"),
    add("raw", "piece", file=image("a.raw"), offset=512, size=1024),
    add("raw", "twice", file={"driver": "raw", "file": image("a.raw")}),
    add("qcow2", "q", file=image("q.qcow2")),
    add("qcow2", "lost", file=image("lost.qcow2"), backing="z"),
    add("qcow2", "over", file=image("over.qcow2"), backing="q"),
    add("qcow2", "bare", file=image("foreign.qcow2"), backing=None),
    add("blkdebug", "debug", image="twice"),
    add("copy-before-write", "cbw", file="debug", target="r"),
    add("copy-before-write", "cbw2", file="piece", target="r"),
]

RULES = [
    add("null-co", "n"),
    add("blkdebug", "b0", image="n", inject_error=[]),
    add("blkdebug", "b1", image="n", set_state=[]),
    add("blkdebug", "b2", image="n", inject_error=[], set_state=[]),
    add("blkdebug", "b3", image="n", take_child_perms=[]),
    add("blkdebug", "b4", image="n", unshare_child_perms=[]),
    add("blkdebug", "b5", image="n", config=""),
    add("blkdebug", "c0", image="n", inject_error=[{"event": "read_aio"}]),
    add(
        "blkdebug",
        "c1",
        image="n",
        inject_error=[
            {"event": "read_aio", "state": 1, "iotype": "read", "errno": 5, "sector": 0}
            | {"once": True, "immediately": False},
            {"event": "write_aio"},
        ],
        set_state=[{"event": "read_aio", "state": 1, "new_state": 2}],
    ),
    add("blkdebug", "c2", image="n", inject_error=[{"event": "none", "errno": n} for n in (0, 1)]),
    add("blkdebug", "c3", image="n", align=512, max_transfer=1024, opt_discard=512),
    add("blkdebug", "c4", image="n", take_child_perms=["write"], unshare_child_perms=["resize"]),
    add("raw", "r", file="c0"),
    add("raw", "r2", file="c4"),
]

EMPTY_CACHE = [
    add("null-co", "n", cache={}),
    add("null-co", "n", cache={"direct": False}),
    add("file", "f", filename="a.raw", cache={}),
    add("raw", "r", file="n", cache={}),
    add("raw", "r", file=image("a.raw", cache={})),
    add("qcow2", "q", file=image("q.qcow2"), cache={}),
    add("qcow2", "q", file=image("q.qcow2"), overlap_check={}),
    add("blkdebug", "b", image="n", cache={}),
    add("copy-before-write", "c", file="n", target=image("a.raw"), cache={}),
    add(
        "qcow2",
        "o",
        file=image("over.qcow2"),
        backing={"driver": "raw", "file": image("a.raw"), "cache": {}},
    ),
]

JSON_NAMES = [
    add("qcow2", f"j{number}", file=image(f"j{number}.qcow2"), read_only=True)
    for number in range(8)
]
BACKING_OPTIONS = [
    {"inject-error.0.event": "write_aio"},
    {"inject-error.0": {"event": "write_aio"}},
    {"inject-error": [{"event": "write_aio"}]},
    {"inject-error": {"0": {"event": "write_aio"}}},
    {"inject-error.0.event": "write_aio", "inject-error.0.sector": 5},
    {"inject-error": []},
    {"cache": {}},
    {"cache.direct": "off", "align": 512},
]


@pytest.fixture
def images(image_dir, monkeypatch, qemu_img):
    monkeypatch.chdir(image_dir)
    with Path("a.raw").open("wb") as file:
        file.truncate(1 << 20)
    qemu_img("create", "-q", "-f", "qcow2", "q.qcow2", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "q.qcow2", "-F", "qcow2", "over.qcow2")
    for path, backing in (("lost.qcow2", "lost/base"), ("foreign.qcow2", "abc:def")):
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "raw", path, "1M")
    for number, options in enumerate(BACKING_OPTIONS):
        backing = {"driver": "blkdebug", "image": image("a.raw", locking="off"), **options}
        name = f"json:{json.dumps(backing)}"
        more = ["-F", "blkdebug", f"j{number}.qcow2", "1M"]
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", name, *more)


def run_qemu(steps: list[Step]) -> list[str]:
    """Return QEMU's answer to each step, and the nodes that it has in the end."""
    *replies, last = ask_qemu([*steps, ("query-named-block-nodes", {"flat": True})])
    answers = [reply["error"]["desc"] if "error" in reply else "ok" for reply in replies]
    nodes = [(n["drv"], n["file"], n["ro"]) for n in last["return"]]
    return [*map(without_generated, answers), nodes]


async def run_ours(steps: list[Step]) -> list[str]:
    blockdev = Blockdev(environment())
    answers = []
    for name, args in steps:
        try:
            if name == "blockdev-add":
                await blockdev.add(args)
            else:
                await blockdev.delete(args["node-name"])
            answers.append("ok")
        except QmpError as error:
            answers.append(without_generated(error.desc))
    nodes = [
        (node.driver.format_name, node.filename, node.read_only)
        for node in reversed(blockdev.graph.nodes.values())
    ]
    await blockdev.close_all()
    return [*answers, nodes]


def without_generated(text: str) -> str:
    return re.sub(r"#block\d+", "#block", text)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    "steps",
    [NAMES, PROTOCOLS, RAW, CHAINS, FILTERS, FILENAMES, RULES, EMPTY_CACHE, JSON_NAMES],
)
async def test_answers_and_nodes_are_qemus(steps):
    ours, theirs = await run_ours(steps), run_qemu(steps)
    labels = [*map(str, steps), "nodes in the end"]
    assert list(zip(labels, ours, strict=True)) == list(zip(labels, theirs, strict=True))
