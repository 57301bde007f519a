"""Which error is reported first, and what an image that a command opens takes over."""

from __future__ import annotations

from typing import Any

import pytest

from blkxact.errors import QmpError

from .conftest import MIB, Emulator

DETECT = "setting detect-zeroes to unmap is not allowed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": {"driver": "file", "filename": "/none"}}, "Could not open '/none'"),
        ({"file": "nope"}, "Cannot find device='nope'"),
        (
            {"file": {"driver": "file", "filename": "/b.qcow2", "node-name": "a"}},
            "Duplicate nodes with node-name='a'",
        ),
        ({"file": {"driver": "file", "filename": "/b.qcow2"}, "data-file": "nope"}, DETECT),
        ({"file": {"driver": "file", "filename": "/b.qcow2"}, "backing": "nope"}, DETECT),
    ],
)
async def test_file_is_opened_before_the_options_of_the_node_are_checked(
    emulator: Emulator, options: dict[str, Any], message: str
) -> None:
    for name in ("a", "b"):
        await emulator.create_disk(name, MIB)
    await emulator.add_disk("a")
    members = {"driver": "qcow2", "node-name": "x", "detect-zeroes": "unmap", **options}
    with pytest.raises(QmpError, match=message):
        await emulator.execute_wire("blockdev-add", members)
    with pytest.raises(QmpError, match="Cannot find device='x'"):
        emulator.layer.find_node("x")


@pytest.mark.parametrize("read_only", [True, False])
async def test_overlay_that_is_made_for_a_node_takes_over_how_that_is_open(
    emulator: Emulator, read_only: bool
) -> None:
    await emulator.create_disk("a", MIB)
    cache = {"no-flush": True}
    await emulator.add_disk("a", read_only=read_only, discard="unmap", cache=cache)
    backend = emulator.plug("a")
    await emulator.execute(
        "blockdev-snapshot-sync", node_name="a", snapshot_file="/n", snapshot_node_name="n"
    )
    node = backend.node
    assert node is not None
    assert node.node_name == "n"
    assert (node.read_only, node.discard) == (read_only, True)
    assert node.cache == {"writeback": True, "direct": False, "no-flush": True}
    assert node.children["file"].node.cache["no-flush"]


async def test_target_that_is_made_for_a_read_only_node_can_be_written(emulator: Emulator) -> None:
    await emulator.create_disk("a", MIB)
    await emulator.add_disk("a", read_only=True, cache={"no-flush": True})
    await emulator.execute(
        "drive-backup", device="a", job_id="j", sync="full", target="/t", auto_finalize=False
    )
    nodes = await emulator.execute("query-named-block-nodes", flat=True)
    [target] = [node for node in nodes if node["file"] == "/t" and node["drv"] == "qcow2"]
    assert not target["ro"]
    assert target["cache"]["no-flush"]
    await emulator.execute("job-cancel", id="j")
    await emulator.jobs_over()


async def test_write_with_an_open_tray_asks_for_no_permission(emulator: Emulator) -> None:
    await emulator.create("/a.qcow2")
    emulator.layer.devices.add({"driver": "scsi-cd", "id": "cd"})
    await emulator.execute("blockdev-change-medium", id="cd", filename="/a.qcow2")
    line = 'qemu-io -d /machine/peripheral/cd "discard 0 4k"'
    refusal = await emulator.hmp(line)
    assert "Block node is read-only" in refusal
    await emulator.execute("blockdev-open-tray", id="cd")
    said = await emulator.hmp(line)
    assert said.strip() == "discard failed: No medium found"


async def test_raw_overlay_over_itself_is_refused_for_its_format(emulator: Emulator) -> None:
    await emulator.create_disk("a", MIB)
    await emulator.add_disk("a")
    with pytest.raises(QmpError, match="Backing file not supported for file format 'raw'"):
        await emulator.execute(
            "drive-backup", device="a", sync="none", target="/a.qcow2", format="raw"
        )
