"""``blockdev-reopen`` with other children: filters and backing files put in and taken out."""

from __future__ import annotations

from typing import Any

import pytest

from blkxact.errors import QmpError

from .conftest import MIB, Emulator


async def reopen(emulator: Emulator, *options: dict[str, Any]) -> None:
    await emulator.execute("blockdev-reopen", options=list(options))


def top(file: str) -> dict[str, Any]:
    return {"driver": "raw", "node-name": "top", "file": file}


def overlay(name: str, emulator: Emulator, backing: str | None) -> dict[str, Any]:
    file = emulator.layer.find_node(name).children["file"].node.node_name
    return {"driver": "qcow2", "node-name": name, "file": file, "backing": backing}


@pytest.fixture
async def disks(emulator: Emulator) -> Emulator:
    """Disks ``a``, ``b`` and ``t`` that begin with their names."""
    for name in ("a", "b", "t"):
        await emulator.create_disk(name, MIB)
        await emulator.add_disk(name)
        await emulator.qemu_io(name, f"write -P {ord(name)} 0 64k")
    return emulator


async def first(emulator: Emulator, name: str) -> bytes:
    return bytes(await emulator.layer.find_node(name).pread(0, 1))


async def test_filter_is_put_in_and_taken_out_by_reopen(disks: Emulator) -> None:
    await disks.execute_wire("blockdev-add", top("a"))
    await disks.execute(
        "blockdev-add", driver="copy-before-write", node_name="cbw", file="a", target="t"
    )
    await reopen(disks, top("cbw"))
    await disks.qemu_io("top", "write -P 1 0 64k")
    assert (await first(disks, "a"), await first(disks, "t")) == (b"\x01", b"a")
    with pytest.raises(QmpError, match="is in use"):
        await disks.execute("blockdev-del", node_name="cbw")
    await reopen(disks, top("a"))
    await disks.execute("blockdev-del", node_name="cbw")
    assert await first(disks, "top") == b"\x01"


async def test_filter_over_another_alignment_follows_it(disks: Emulator) -> None:
    await disks.execute_wire("blockdev-add", top("a"))
    await disks.execute(
        "blockdev-add", driver="blkdebug", node_name="sectors", image="b", align=4096
    )
    await reopen(disks, top("sectors"))
    assert disks.layer.find_node("top").driver.request_alignment == 4096
    await disks.qemu_io("top", "write -P 1 1 1")
    assert bytes(await disks.layer.find_node("b").pread(0, 3)) == b"b\x01b"


async def test_filter_is_put_under_an_image_and_taken_out_again(disks: Emulator) -> None:
    """What the image has cached is good: it is the same file. What it writes passes the filter."""
    file = disks.layer.find_node("a").children["file"].node.node_name
    fail = {"event": "write_aio", "errno": 5, "once": True}
    await disks.execute_wire(
        "blockdev-add",
        {"driver": "blkdebug", "node-name": "below", "image": file, "inject-error": [fail]},
    )
    options = {"driver": "qcow2", "node-name": "a"}
    await reopen(disks, {**options, "file": "below"})
    await disks.qemu_io("a", "write -P 1 0 64k")
    assert await first(disks, "a") == b"a"  # the filter has let it fail
    await disks.qemu_io("a", "write -P 2 64k 64k")
    await reopen(disks, {**options, "file": file})
    await disks.execute("blockdev-del", node_name="below")
    await disks.qemu_io("a", "write -P 3 128k 64k")
    node = disks.layer.find_node("a")
    assert [bytes(await node.pread(at << 16, 1)) for at in range(3)] == [b"a", b"\x02", b"\x03"]


async def test_backing_file_is_changed_and_taken_away_by_reopen(disks: Emulator) -> None:
    await disks.create_disk("o", MIB)
    await disks.add_disk("o", backing="a")
    assert await first(disks, "o") == b"a"
    await reopen(disks, overlay("o", disks, "b"))
    assert await first(disks, "o") == b"b"
    await reopen(disks, overlay("o", disks, None))
    assert await first(disks, "o") == b"\0"
    with pytest.raises(QmpError, match="Making 'o' a backing child of 'o' would create a cycle"):
        await reopen(disks, overlay("o", disks, "o"))
    with pytest.raises(QmpError, match="Cannot find device='' nor node-name='none'"):
        await reopen(disks, overlay("o", disks, "none"))


async def test_children_of_all_nodes_change_or_none(disks: Emulator) -> None:
    for name in ("o", "p"):
        await disks.create_disk(name, MIB)
        await disks.add_disk(name, backing="a")
    await disks.execute("device_add", driver="scsi-hd", id="sda", drive="p")
    options = [overlay("o", disks, "b"), {**overlay("p", disks, "b"), "read-only": True}]
    with pytest.raises(QmpError, match="cannot support read-write users"):
        await reopen(disks, *options)
    assert [await first(disks, name) for name in ("o", "p")] == [b"a", b"a"]
    await disks.execute("device_del", id="sda")
    await reopen(disks, *options)
    assert [await first(disks, name) for name in ("o", "p")] == [b"b", b"b"]
