"""``blockdev-create`` of qcow2 in a file that holds something and that others have open.

The same commands to QEMU and to blkxact: the same replies, and the same bytes where it succeeds.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from blkxact.errors import QmpError
from blkxact.storage.os_file import OsStorage

from .conftest import MIB, Emulator

pytestmark = pytest.mark.qemu

Members = dict[str, Any]
FILE = {"driver": "file", "node-name": "f", "filename": "a.qcow2"}
DATA = {"driver": "file", "node-name": "g", "filename": "b.raw"}
DEBUG = {"driver": "blkdebug", "node-name": "d", "image": "f"}
ABOVE = {"driver": "qcow2", "node-name": "q", "file": "f"}
RULE = {"event": "none", "iotype": "write", "immediately": True}

CASES: dict[str, tuple[list[Members], Members]] = {
    "alone": ([FILE], {}),
    "a filter above": ([FILE, DEBUG], {}),
    "through a filter": ([FILE, DEBUG], {"file": "d"}),
    "small clusters": ([FILE], {"cluster-size": 4096}),
    "a backing file": ([FILE], {"backing-file": "x", "backing-fmt": "raw"}),
    "a data file": ([FILE, DATA], {"data-file": "g"}),
    "read-only": ([{**FILE, "read-only": True}], {}),
    "failing writes": ([FILE, {**DEBUG, "inject-error": [RULE]}], {"file": "d"}),
    "an image above": ([FILE, ABOVE], {}),
    "an image above that is read-only": ([FILE, {**ABOVE, "read-only": True}], {}),
    "a filter that unshares": ([FILE, {**DEBUG, "unshare-child-perms": ["resize"]}], {}),
}
"""Nodes, and members of the options of the new image."""

CONFLICTS: dict[str, tuple[list[Members], Members]] = {
    "a filter that writes": ([FILE, {**DEBUG, "take-child-perms": ["write"]}], {}),
    "a filter that resizes": ([FILE, {**DEBUG, "take-child-perms": ["resize"]}], {}),
    "a data file that another resizes": (
        [FILE, DATA, {**DEBUG, "image": "g", "take-child-perms": ["resize"]}],
        {"data-file": "g"},
    ),
    "the file as its own data file": ([FILE], {"data-file": "f"}),
}
"""Found when the skeleton is written: what QEMU leaves there is an image that nobody can repair."""


def create_options(members: Members) -> Members:
    return {"driver": "qcow2", "file": "f", "size": 2 * MIB, **members}


def make_files(qemu_img: Any) -> None:
    for name in ("a.qcow2", "b.raw"):
        Path(name).unlink(missing_ok=True)
    qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "a.qcow2", "4M")
    Path("b.raw").write_bytes(b"\x07" * MIB)


def files() -> list[bytes]:
    return [Path(name).read_bytes() for name in ("a.qcow2", "b.raw")]


def run_qemu(nodes: list[Members], options: Members) -> str | None:
    with subprocess.Popen(
        ["qemu-system-x86_64", *["-M", "none", "-display", "none", "-nodefaults", "-qmp", "stdio"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def execute(command: str, arguments: Members) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            process.stdin.flush()
            return next(
                r for r in map(json.loads, process.stdout) if r.keys() & {"return", "error"}
            )

        execute("qmp_capabilities", {})
        replies = [execute("blockdev-add", node) for node in nodes]
        replies.append(execute("blockdev-create", {"job-id": "c", "options": options}))
        assert replies == [{"return": {}}] * len(replies)
        job: Members = {"status": "running"}
        while job["status"] != "concluded":
            (job,) = execute("query-jobs", {})["return"]
        execute("quit", {})
    return without_generated(job.get("error"))


async def run_ours(nodes: list[Members], options: Members) -> str | None:
    emulator = Emulator(OsStorage())
    for node in nodes:
        await emulator.execute_wire("blockdev-add", node)
    await emulator.execute("blockdev-create", job_id="c", options=options)
    await emulator.jobs_over()
    (job,) = await emulator.execute("query-jobs")
    await emulator.layer.shutdown()
    return without_generated(job.get("error"))


def without_generated(text: str | None) -> str | None:
    return None if text is None else re.sub(r"#block\d+", "#block", text)


@pytest.fixture
def directory(image_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image_dir)


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("name", CASES)
async def test_reply_and_files_are_qemus(name: str, qemu_img: Any) -> None:
    nodes, members = CASES[name]
    make_files(qemu_img)
    theirs = run_qemu(nodes, create_options(members)), files()
    make_files(qemu_img)
    assert (await run_ours(nodes, create_options(members)), files()) == theirs


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("name", CONFLICTS)
async def test_conflict_is_reported_as_in_qemu_and_leaves_no_image(
    name: str, qemu_img: Any
) -> None:
    nodes, members = CONFLICTS[name]
    make_files(qemu_img)
    theirs = run_qemu(nodes, create_options(members))
    make_files(qemu_img)
    assert await run_ours(nodes, create_options(members)) == theirs
    assert not any(files()[0][:4])
    emulator = Emulator(OsStorage())
    with pytest.raises(QmpError, match="Image is not in qcow2 format"):
        await emulator.execute("blockdev-add", driver="qcow2", node_name="q", file={**FILE})
    await emulator.layer.shutdown()
