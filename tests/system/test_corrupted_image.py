"""BLOCK_IMAGE_CORRUPTED: clients hear of damage, the image is marked and of no use any more."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import pytest

from blkxact.block_layer import BlockLayer
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.events import EventSink
from blkxact.storage.os_file import OsStorage

from .conftest import Emulator

CLUSTER = 65536
COUNTS_AT, L1_AT, L2_AT = (number * CLUSTER for number in (2, 3, 4))
COPIED = 1 << 63
ODD_L1 = (L1_AT, COPIED | (L2_AT + 512))
ODD_L2 = (L2_AT, COPIED | (5 * CLUSTER + 0x2A00))
FREE_L2 = (COUNTS_AT + 8, 0x0000_0001_0001_0000)
"""The counts of the clusters 4 to 7: the L2 table's is lost."""

SCENES = {
    "write that would go to a table": ([FREE_L2], False, ["write 512k 64k", "read 0 512"]),
    "read through an odd L1 entry": ([ODD_L1], False, ["read 0 64k", "read 0 64k", "write 0 64k"]),
    "read through an odd L2 entry": ([ODD_L2], False, ["read 0 64k", "write 0 512"]),
    "read only": ([ODD_L2], True, ["read 0 64k", "read 0 64k", "read 512k 512"]),
    "discard of an odd cluster": ([ODD_L2], False, ["discard 0 64k", "read 0 64k", "write 0 1k"]),
    "first not fatal, then fatal": (
        [ODD_L2, (L2_AT + 8, COPIED | (6 * CLUSTER + 0x2A00))],
        False,
        ["discard 0 64k", "read 64k 64k", "read 64k 64k"],
    ),
}


def make_image(path: Path, patches: list[tuple[int, int]]) -> None:
    subprocess.run(["qemu-img", "create", "-qf", "qcow2", path, "1M"], check=True)
    write = ["qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 128k", path]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
    with path.open("r+b") as file:
        for offset, value in patches:
            file.seek(offset)
            file.write(struct.pack(">Q", value))


def blockdev(path: Path, *, read_only: bool) -> dict:
    file = {"driver": "file", "filename": str(path)}
    return {"driver": "qcow2", "node-name": "n", "read-only": read_only, "file": file,
            "discard": "unmap"}  # fmt: skip


def events_of_qemu(path: Path, lines: list[str], *, read_only: bool) -> list[dict]:
    asked = [{"execute": "qmp_capabilities"}]
    asked += [
        {"execute": "human-monitor-command", "arguments": {"command-line": f'qemu-io n "{line}"'}}
        for line in lines
    ]
    done = subprocess.run(
        ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-nographic", "-qmp", "stdio",
         "-blockdev", json.dumps(blockdev(path, read_only=read_only))],
        input="".join(json.dumps(one) for one in [*asked, {"execute": "quit"}]),
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [one["data"] for one in said if one.get("event") == "BLOCK_IMAGE_CORRUPTED"]


async def events_of_ours(path: Path, lines: list[str], *, read_only: bool) -> list[dict]:
    emulator, storage = Emulator(), OsStorage()
    sink = EventSink(SystemClock())
    sink.subscribe(emulator.events.append)
    emulator.use(BlockLayer(storage, SystemClock(), sink, rng=emulator.layer.rng))
    await emulator.execute_wire("blockdev-add", blockdev(path, read_only=read_only))
    for line in lines:
        await emulator.qemu_io("n", line)
    await emulator.layer.shutdown()
    storage.close()
    return emulator.named("BLOCK_IMAGE_CORRUPTED")


def corrupt_bit(path: Path) -> int:
    return path.read_bytes()[79] & 2


@pytest.mark.qemu
@pytest.mark.parametrize("scene", SCENES)
async def test_damage_found_by_a_request_is_told_and_marked_like_qemu(scene, image_dir):
    patches, read_only, lines = SCENES[scene]
    theirs, ours = image_dir / "theirs", image_dir / "ours"
    for path in (theirs, ours):
        make_image(path, patches)
    expected = events_of_qemu(theirs, lines, read_only=read_only)
    assert expected, "QEMU finds nothing: the scene shows nothing"
    told = await events_of_ours(ours, lines, read_only=read_only)
    for one in [*expected, *told]:  # QEMU prints decimals and hexadecimals by turns
        one["msg"] = one["msg"].replace("0x0)", "0)")
    assert told == expected
    assert corrupt_bit(ours) == corrupt_bit(theirs)


async def test_image_found_corrupt_fails_requests_and_is_opened_read_only_afterwards(emulator):
    await emulator.create_disk("d")
    await emulator.add_disk("d")
    await emulator.qemu_io("d", "write -P 1 0 64k")
    await emulator.execute("blockdev-del", node_name="d")
    file = await emulator.storage.open("/d.qcow2")
    await file.pwrite(L2_AT, struct.pack(">Q", COPIED | 5 * CLUSTER + 512))
    await file.close()

    await emulator.add_disk("d")
    assert "Input/output error" in await emulator.qemu_io("d", "read 0 64k")
    assert [
        (one["node-name"], one["fatal"]) for one in emulator.named("BLOCK_IMAGE_CORRUPTED")
    ] == [("d", True)]
    assert "No medium found" in await emulator.qemu_io("d", "write 512k 64k")
    assert "No medium found" in await emulator.qemu_io("d", "read 512k 64k")
    await emulator.execute("blockdev-del", node_name="d")
    with pytest.raises(Exception, match="Image is corrupt; cannot be opened read/write"):
        await emulator.add_disk("d")
    await emulator.add_disk("d", read_only=True)
    assert "error" not in (await emulator.qemu_io("d", "read 512k 64k")).lower()
