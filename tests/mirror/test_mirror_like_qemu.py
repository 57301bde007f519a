"""The same scripts to blkxact and to QEMU: replies, events and what is left must be the same."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from blkxact.errors import QmpError
from blkxact.storage.os_file import OsStorage
from blkxact.testing.waiting import until
from tests.emulator import MIB, Emulator
from tests.qapi.oracle import Qemu

pytestmark = pytest.mark.qemu

MACHINE = ("-accel", "tcg", "-S")
Step = tuple[str, dict[str, Any]]
UNTIL = "until"
"""A step that waits until the jobs have these statuses."""
NODES: Step = ("query-named-block-nodes", {"flat": True})
QUERIES: list[Step] = [
    NODES,
    ("query-named-block-nodes", {}),
    ("query-block", {}),
    ("query-block-jobs", {}),
    ("query-jobs", {}),
    ("query-blockstats", {}),
    ("query-blockstats", {"query-nodes": True}),
]


def jobs(*statuses: str) -> Step:
    return UNTIL, {"statuses": list(statuses)}


def null(name: str, size: int = MIB, **members: Any) -> Step:
    return "blockdev-add", {"driver": "null-co", "node-name": name, "size": size, **members}


def disk(name: str, fmt: str = "qcow2", **members: Any) -> Step:
    file = {"driver": "file", "filename": f"{name}.img", "node-name": f"{name}-file"}
    return "blockdev-add", {"driver": fmt, "node-name": name, "file": file, **members}


def mirror(**members: Any) -> Step:
    given = {name.replace("_", "-"): value for name, value in members.items()}
    defaults = {"job-id": "m", "device": "a", "target": "t", "sync": "full"}
    return "blockdev-mirror", {**defaults, **given}


def drive_mirror(**members: Any) -> Step:
    given = {name.replace("_", "-"): value for name, value in members.items()}
    defaults = {"job-id": "m", "device": "a", "target": "new.img", "sync": "full"}
    return "drive-mirror", {**defaults, **given}


def qemu_io(line: str) -> Step:
    return "human-monitor-command", {"command-line": f'qemu-io -d g "{line}"'}


GUEST: list[Step] = [
    ("device_add", {"driver": "virtio-scsi-pci", "id": "bus0"}),
    ("device_add", {"driver": "scsi-hd", "drive": "a", "id": "g"}),
]
COMPLETE: list[Step] = [("job-complete", {"id": "m"}), jobs()]
SOFT: list[Step] = [("block-job-cancel", {"device": "m"}), jobs()]
HARD: list[Step] = [("block-job-cancel", {"device": "m", "force": True}), jobs()]
READY = jobs("ready")

BUSY = [
    null("a"),
    null("t"),
    null("other"),
    *GUEST,
    mirror(filter_node_name="f"),
    READY,
    *QUERIES,
    *(("blockdev-del", {"node-name": name}) for name in ("a", "t", "f")),
    *(("block-dirty-bitmap-add", {"node": name, "name": "b"}) for name in ("a", "t", "f")),
    *(
        (f"blockdev-{kind}", {"device": name, "target": target, "job-id": "n", "sync": "full"})
        for kind in ("backup", "mirror")
        for name, target in (("a", "other"), ("f", "other"), ("other", "t"), ("other", "a"))
    ),
    ("blockdev-snapshot", {"node": "f", "overlay": "other"}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "s"}}}),
    *(
        ("block-export-add", {"type": "nbd", "id": "e", "node-name": name, "writable": True})
        for name in ("a", "t", "f")
    ),
    ("block-export-add", {"type": "nbd", "id": "e", "node-name": "t"}),
    *COMPLETE,
    *QUERIES,
    ("blockdev-del", {"node-name": "a"}),
]
REFUSED = [
    null("a"),
    null("t"),
    null("larger", 2 * MIB),
    null("ro", **{"read-only": True}),
    null("inner"),
    ("blockdev-add", {"driver": "raw", "node-name": "over", "file": "inner"}),
    *(mirror(granularity=size) for size in (1, 511, 513, 128 << 20, 1 << 31)),
    *(mirror(buf_size=size) for size in (-1, -(1 << 40))),
    *(mirror(sync=mode) for mode in ("incremental", "bitmap")),
    *(mirror(device=name) for name in ("", "none", "inner")),
    *(mirror(target=name) for name in ("", "none", "a", "ro")),
    *(mirror(replaces=name) for name in ("", "none", "t", "larger", "inner")),
    *(mirror(filter_node_name=name) for name in ("a", "#x", "", "x" * 40)),
    *(mirror(job_id=name) for name in ("", "#x", "1")),
    ("blockdev-mirror", {"device": "a", "target": "t", "sync": "full"}),
    *(mirror(speed=speed) for speed in (-1, -(1 << 40))),
    mirror(target="larger"),
    jobs(),
    *(
        drive_mirror(**members)
        for members in (
            {"replaces": "a"},
            {"format": "none"},
            {"format": "blkdebug"},
            {"device": "none"},
            {"mode": "existing"},
            {"node_name": "a", "format": "raw"},
            {"sync": "incremental", "format": "raw"},
            {"granularity": 1, "format": "raw"},
            {"target": "no/such/folder", "format": "raw"},
            {"sync": "none", "format": "raw"},
        )
    ),
    ("query-jobs", {}),
    NODES,
]
COPIED = [
    disk("a"),
    disk("t"),
    *GUEST,
    mirror(),
    READY,
    *QUERIES,
    qemu_io("write 0 64k"),
    qemu_io("write 1M 64k"),
    *COMPLETE,
    *QUERIES,
]
CANCELLED = [
    null("a"),
    null("t"),
    *GUEST,
    *(
        step
        for end in (SOFT, HARD)
        for mode in ("background", "write-blocking")
        for step in (mirror(copy_mode=mode), READY, NODES, *end, ("query-block", {}))
    ),
]
BY_HAND = [
    null("a"),
    null("t"),
    *GUEST,
    mirror(auto_finalize=False, auto_dismiss=False),
    READY,
    ("job-complete", {"id": "m"}),
    jobs("pending"),
    NODES,
    ("job-finalize", {"id": "m"}),
    jobs("concluded"),
    *QUERIES,
    ("job-dismiss", {"id": "m"}),
    jobs(),
]
TOP = [
    disk("a"),
    *GUEST,
    drive_mirror(sync="top", node_name="new"),
    READY,
    *QUERIES,
    qemu_io("write 1M 4k"),
    *COMPLETE,
    *QUERIES,
]
TOP_EXISTING = [
    disk("a"),
    *GUEST,
    drive_mirror(sync="top", node_name="new", mode="existing", target="over.img"),
    READY,
    *QUERIES,
    qemu_io("write 1M 4k"),
    *COMPLETE,
    *QUERIES,
]
NONE = [
    disk("a"),
    *GUEST,
    drive_mirror(sync="none", node_name="new"),
    READY,
    *QUERIES,
    qemu_io("write 1M 4k"),
    *SOFT,
    *QUERIES,
]
FULL_RAW = [
    disk("a"),
    *GUEST,
    drive_mirror(node_name="new", format="raw"),
    READY,
    *QUERIES,
    *COMPLETE,
    *QUERIES,
]
REPLACED = [
    null("a"),
    null("t"),
    ("object-add", {"qom-type": "throttle-group", "id": "tg"}),
    (
        "blockdev-add",
        {"driver": "throttle", "node-name": "th", "file": "a", "throttle-group": "tg"},
    ),
    mirror(device="th", replaces="a", job_id="m"),
    READY,
    NODES,
    *COMPLETE,
    NODES,
    ("query-named-block-nodes", {}),
]
EMPTY = [null("a", 0), null("t", 0), mirror(), READY, *COMPLETE]
NOT_COMPARED = frozenset({"child", "actual-size", "wr_highest_offset"})


def comparable(reply: Any) -> Any:
    """Return a reply without times, generated names, and what the file system decides."""
    if isinstance(reply, list):
        return [comparable(item) for item in reply]
    if isinstance(reply, str):
        return re.sub(r"#block\d+", "#block", reply)
    if not isinstance(reply, dict):
        return reply
    unknown = {"virtual-size"} if reply.get("format") == "file" else set()
    return {
        name: value > 0 if name.endswith("_time_ns") else comparable(value)
        for name, value in reply.items()
        if name not in NOT_COMPARED | unknown
    }


def job_events(events: list[dict[str, Any]]) -> list[Any]:
    """Return the events of jobs, without the short rests that QEMU reports in drained sections."""
    found: list[Any] = []
    for one in events:
        if "JOB" in one["event"]:
            found.append((one["event"], one["data"]))
            statuses = [data.get("status") for _, data in found[-2:]]
            if statuses in (["standby", "ready"], ["paused", "running"]):
                del found[-2:]
    return found


def make_images(folder: Path, qemu_img: Callable[..., str]) -> None:
    folder.mkdir()
    path = folder.joinpath
    qemu_img("create", "-q", "-f", "qcow2", str(path("base.img")), "4M")
    _write(path("base.img"), "write -P 1 0 128k", "write -P 1 2M 64k")
    for name in ("a.img", "over.img"):
        backing = ("-b", "base.img", "-F", "qcow2")
        qemu_img("create", "-q", "-f", "qcow2", *backing, str(path(name)))
    _write(path("a.img"), "write -P 2 64k 128k", "write -z 3M 64k")
    qemu_img("create", "-q", "-f", "qcow2", str(path("t.img")), "4M")


def _write(path: Path, *lines: str) -> None:
    words = [word for line in lines for word in ("-c", line)]
    subprocess.run(["qemu-io", *words, str(path)], check=True, capture_output=True, timeout=60)


def _have(emulator: Emulator, statuses: list[str]) -> bool:
    return [str(job.status) for job in emulator.layer.jobs.values()] == statuses


async def ours(script: list[Step]) -> tuple[list[Any], list[Any]]:
    emulator = Emulator(OsStorage())
    replies: list[Any] = []
    for name, arguments in script:
        if name == UNTIL:
            await until(partial(_have, emulator, arguments["statuses"]))
            continue
        try:
            result = await emulator.execute_wire(name, arguments)
            replies.append({"return": {} if result is None else result})
        except QmpError as error:
            replies.append({"error": {"class": str(error.error_class), "desc": error.desc}})
        await emulator.layer.guest.idle()
    await emulator.layer.shutdown()
    return replies, job_events(emulator.events)


def theirs(script: list[Step], folder: Path) -> tuple[list[Any], list[Any]]:
    replies = []
    with Qemu(MACHINE, cwd=folder) as qemu:
        for name, arguments in script:
            if name == UNTIL:
                wanted = arguments["statuses"]
                qemu.ask_until(
                    "query-jobs", lambda found, w=wanted: [one["status"] for one in found] == w
                )
            else:
                replies.append(qemu.ask(name, arguments))
        return replies, job_events(qemu.events)


SCRIPTS = {
    "busy": BUSY,
    "refused": REFUSED,
    "copied": COPIED,
    "cancelled": CANCELLED,
    "by-hand": BY_HAND,
    "top": TOP,
    "top-existing": TOP_EXISTING,
    "none": NONE,
    "full-raw": FULL_RAW,
    "replaced": REPLACED,
    "empty": EMPTY,
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_mirror_is_qemus(
    name: str, image_dir: Path, monkeypatch: pytest.MonkeyPatch, qemu_img: Any
) -> None:
    script = SCRIPTS[name]
    for folder in ("theirs", "ours"):
        make_images(image_dir / folder, qemu_img)
    their_replies, their_events = theirs(script, image_dir / "theirs")
    monkeypatch.chdir(image_dir / "ours")
    our_replies, our_events = await ours(script)
    commands = [step for step in script if step[0] != UNTIL]
    for step, mine, real in zip(commands, our_replies, their_replies, strict=True):
        if step[0] != "human-monitor-command":
            assert comparable(mine) == comparable(real), step
    assert our_events == their_events
