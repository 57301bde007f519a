"""The image verbs and nodes on block devices, beside qemu-img."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest

from blkxact.block_layer import BlockLayer
from blkxact.commands import Dispatcher
from blkxact.errors import QmpError
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.events import EventSink
from blkxact.storage.os_file import OsStorage

MIB = 1 << 20
Loop = Callable[..., str]


def image(*words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "blkxact", "image", *words]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def qemu_img(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["qemu-img", *words], capture_output=True, text=True, check=False)


def good(*words: str) -> str:
    done = image(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_device_is_mapped_as_data_and_copied_as_it_is(loop: Loop, tmp_path: Path) -> None:
    device = loop()
    content = random.Random(1).randbytes(64 << 10)
    with Path(device).open("r+b", buffering=0) as opened:
        opened.seek(MIB)
        opened.write(content)
    (extent,) = json.loads(good("map", "-f", "raw", "--output", "json", device))
    assert (extent["length"], extent["data"]) == (4 * MIB, True)
    copy = tmp_path / "copy.raw"
    good("convert", "-f", "raw", "-O", "raw", device, str(copy))
    assert copy.read_bytes() == Path(device).read_bytes()
    assert copy.read_bytes()[MIB:][: len(content)] == content


def test_image_is_converted_to_a_device(loop: Loop, tmp_path: Path) -> None:
    device = loop()
    Path(device).write_bytes(b"\xff" * 4 * MIB)
    source = tmp_path / "source.raw"
    content = random.Random(2).randbytes(64 << 10)
    source.write_bytes(bytes(MIB) + content + bytes(3 * MIB - len(content)))
    good("convert", "-f", "raw", "-O", "raw", str(source), device)
    assert Path(device).read_bytes() == source.read_bytes()


@pytest.mark.qemu
def test_qcow2_on_a_device_is_one_for_qemu_too(loop: Loop) -> None:
    device = loop()
    good("create", "-q", "-f", "qcow2", device, "64M")
    good("bitmap", "--add", device, "b0")
    ours = json.loads(good("info", "-f", "qcow2", "--output", "json", device))
    theirs = json.loads(qemu_img("info", "-f", "qcow2", "--output", "json", device).stdout)
    assert ours["virtual-size"] == theirs["virtual-size"] == 64 * MIB
    assert ours["actual-size"] == theirs["actual-size"] == 0
    assert ours["format-specific"] == theirs["format-specific"]
    assert qemu_img("check", device).returncode == 0
    assert image("check", device).returncode == 0


@pytest.mark.qemu
@pytest.mark.parametrize(
    "words",
    [
        ["resize", "-f", "raw", "{device}", "+1M"],
        ["resize", "-f", "raw", "--shrink", "{device}", "1M"],
        ["create", "-f", "raw", "{device}", "8M"],
        ["info", "host_device:{file}"],
        ["info", "--image-opts", "driver=file,filename={device}"],
    ],
)
def test_device_is_refused_in_qemus_words(loop: Loop, tmp_path: Path, words: list[str]) -> None:
    device = loop()
    file = tmp_path / "a.raw"
    file.write_bytes(bytes(MIB))
    filled = [word.format(device=device, file=file) for word in words]
    ours, theirs = image(*filled), qemu_img(*filled)
    assert theirs.returncode == ours.returncode == 1
    assert ours.stderr.partition(": ")[2] == theirs.stderr.partition(": ")[2]


class Emulator:
    """One emulator on the files and devices of this machine."""

    def __init__(self) -> None:
        self.storage = OsStorage()
        clock = SystemClock()
        sink = EventSink(clock)
        sink.subscribe(self._on_event)
        self.layer = BlockLayer(self.storage, clock, sink, rng=random.Random(1))
        self.job_ended = asyncio.Event()

    def _on_event(self, event: dict[str, object]) -> None:
        if event["event"] == "BLOCK_JOB_COMPLETED":
            self.job_ended.set()

    async def execute(self, command: str, **members: object) -> Any:
        arguments = {name.replace("_", "-"): value for name, value in members.items()}
        result = Dispatcher(self.layer).execute(command, arguments)
        return await result if isawaitable(result) else result


@pytest.fixture
async def emulator():
    emulator = Emulator()
    yield emulator
    await emulator.layer.shutdown()
    emulator.storage.close()


async def test_device_is_a_node_and_its_length_stays(loop: Loop, emulator) -> None:
    device = loop()
    await emulator.execute("blockdev-add", driver="host_device", node_name="d", filename=device)
    (node,) = await emulator.execute("query-named-block-nodes")
    assert (node["drv"], node["image"]["virtual-size"]) == ("host_device", 4 * MIB)
    with pytest.raises(QmpError, match="Cannot resize device files"):
        await emulator.execute("block_resize", node_name="d", size=8 * MIB)
    with pytest.raises(QmpError, match=r"'file' driver requires .* to be a regular file"):
        await emulator.execute("blockdev-add", driver="file", node_name="f", filename=device)


async def test_write_protected_device_is_opened_if_auto_read_only(loop: Loop, emulator) -> None:
    device = loop(read_only=True)
    with pytest.raises(QmpError, match="The device is not writable: Permission denied"):
        await emulator.execute("blockdev-add", driver="host_device", node_name="d", filename=device)
    await emulator.execute(
        "blockdev-add", driver="host_device", node_name="d", filename=device, auto_read_only=True
    )
    (node,) = await emulator.execute("query-named-block-nodes")
    assert node["drv"] == "host_device"


async def test_backup_of_a_device_to_a_device(loop: Loop, emulator) -> None:
    source, target = loop(), loop()
    content = random.Random(3).randbytes(4 * MIB)
    write(source, content)
    for name, device in (("s", source), ("t", target)):
        await emulator.execute(
            "blockdev-add", driver="host_device", node_name=name, filename=device
        )
    await emulator.execute(
        "blockdev-backup", job_id="j", device="s", target="t", sync="full", auto_dismiss=False
    )
    async with asyncio.timeout(30):
        await emulator.job_ended.wait()
    (job,) = await emulator.execute("query-jobs")
    assert "error" not in job
    assert read(target) == content


def write(device: str, content: bytes) -> None:
    Path(device).write_bytes(content)


def read(device: str) -> bytes:
    return Path(device).read_bytes()
