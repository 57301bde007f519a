"""The same commands to blkxact and to QEMU's storage daemon: the replies must agree."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from blkxact.nbd.protocol import Info, Option

from .process import QEMU, Daemon, run
from .talk import (
    FIXED_NO_ZEROES,
    contexts,
    go,
    info_data,
    option,
    option_replies,
    read_answers,
)

pytestmark = pytest.mark.qemu

DISK = {"driver": "null-co", "node_name": "disk", "size": 1 << 20}


def script(path: Path) -> list[tuple[str, dict[str, object]]]:
    """Return commands with their arguments, each a refusal or a step."""
    add, remove = "block-export-add", "block-export-del"
    nbd = {"type": "nbd", "id": "e", "node_name": "disk"}
    address = {"type": "unix", "data": {"path": str(path)}}
    return [
        ("blockdev-add", DISK),
        ("blockdev-add", {**DISK, "node_name": "ro", "read_only": True}),
        ("blockdev-add", {"driver": "raw", "node_name": "raw", "file": "disk"}),
        ("block-dirty-bitmap-add", {"node": "disk", "name": "b0"}),
        ("block-dirty-bitmap-add", {"node": "disk", "name": "off", "disabled": True}),
        ("nbd-server-stop", {}),
        (add, nbd),
        ("nbd-server-add", {"device": "disk"}),
        ("nbd-server-start", {"addr": address, "max-connections": -1}),
        ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "/" + "x" * 108}}}),
        ("nbd-server-start", {"addr": address}),
        ("nbd-server-start", {"addr": address}),
        (add, {**nbd, "id": "1e"}),
        (add, {**nbd, "node_name": "nope"}),
        (add, {**nbd, "node_name": "ro", "writable": True}),
        (add, {**nbd, "iothread": "nope"}),
        (add, {**nbd, "name": "n" * 4097}),
        (add, {**nbd, "description": "n" * 4097}),
        (add, {**nbd, "bitmaps": ["nope"]}),
        (add, {**nbd, "bitmaps": ["b0"]}),
        (add, {**nbd, "bitmaps": [{"node": "nope", "name": "b0"}]}),
        (add, {**nbd, "bitmaps": [{"node": "disk", "name": "nope"}]}),
        ("query-block-exports", {}),
        (add, {**nbd, "bitmaps": ["off"], "description": "a disk"}),
        (add, nbd),
        (add, {**nbd, "id": "e2"}),
        (add, {**nbd, "id": "e2", "name": "again", "bitmaps": ["off"]}),
        ("block-dirty-bitmap-remove", {"node": "disk", "name": "off"}),
        ("block-dirty-bitmap-enable", {"node": "disk", "name": "off"}),
        ("nbd-server-add", {"device": "ro", "writable": True}),
        ("nbd-server-add", {"device": "ro"}),
        ("nbd-server-add", {"device": "nope"}),
        ("nbd-server-add", {"device": "disk", "name": "w", "writable": True, "bitmap": "b0"}),
        (add, {**nbd, "id": "chain", "node_name": "raw", "name": "c", "bitmaps": ["off"]}),
        ("query-block-exports", {}),
        ("blockdev-del", {"node_name": "disk"}),
        ("blockdev-del", {"node_name": "ro"}),
        ("block_resize", {"node_name": "disk", "size": 1 << 21}),
        (remove, {"id": "nope"}),
        ("nbd-server-remove", {"name": "nope"}),
        ("nbd-server-remove", {"name": "w", "mode": "hard"}),
        (remove, {"id": "e"}),
        ("query-block-exports", {}),
        ("nbd-server-stop", {}),
        ("query-block-exports", {}),
        ("nbd-server-stop", {}),
    ]


def test_commands_are_answered_as_by_qemu(image_dir: Path) -> None:
    with Daemon(image_dir) as ours, Daemon(image_dir, program=QEMU) as theirs:
        path, other = image_dir / "x.nbd", image_dir / "qemu.nbd"
        for (command, mine), (_, its) in zip(script(path), script(other), strict=True):
            assert ours.execute(command, **mine) == theirs.execute(command, **its), (command, mine)
        names = [event["event"] for event in ours.events]
        assert names == [event["event"] for event in theirs.events]
        mine = [event["data"] for event in ours.events]
        assert sorted(map(str, mine)) == sorted(str(event["data"]) for event in theirs.events)


# The handshake, byte by byte

WORDS = {
    "list": option(Option.LIST),
    "list with data": option(Option.LIST, b"x"),
    "info": option(Option.INFO, info_data("disk", Info.NAME, Info.BLOCK_SIZE)),
    "info without block size": option(Option.INFO, info_data("sectors")),
    "info of nothing": option(Option.INFO, info_data("n" * 200)),
    "info cut": option(Option.INFO, b"\0\0\0\4dis"),
    "info with more": option(Option.INFO, info_data("disk") + b"x"),
    "name too long": option(Option.INFO, b"\0\0\x10\1" + bytes(4097)),
    "contexts": option(Option.LIST_META_CONTEXT, contexts("disk")),
    "contexts by namespace": option(Option.LIST_META_CONTEXT, contexts("disk", "qemu:")),
    "contexts by kind": option(Option.LIST_META_CONTEXT, contexts("disk", "qemu:dirty-bitmap:")),
    "contexts unknown": option(Option.LIST_META_CONTEXT, contexts("disk", "x:", "base:y")),
    "contexts of nothing": option(Option.LIST_META_CONTEXT, contexts("nope", "base:")),
    "contexts cut": option(Option.LIST_META_CONTEXT, contexts("disk", "base:")[:-3]),
    "set too early": option(Option.SET_META_CONTEXT, contexts("disk", "base:allocation")),
    "structured": option(Option.STRUCTURED_REPLY),
    "structured again": option(Option.STRUCTURED_REPLY),
    "set": option(
        Option.SET_META_CONTEXT,
        contexts("disk", "qemu:dirty-bitmap:off", "qemu:allocation-depth", "base:"),
    ),
    "tls": option(Option.STARTTLS),
    "unknown": option(77, b"data"),
    "go to nothing": go("nope"),
    "go": go("sectors", Info.BLOCK_SIZE),
}


def test_handshake_is_answered_as_by_qemu(image_dir: Path) -> None:
    image = image_dir / "disk.raw"
    run("qemu-img", "create", "-q", "-f", "raw", image, "1M")
    with Daemon(image_dir) as ours, Daemon(image_dir, program=QEMU) as theirs:
        connections = {}
        for daemon in (ours, theirs):
            address = {"type": "unix", "data": {"path": str(daemon.nbd)}}
            daemon.execute("blockdev-add", **DISK)
            sectors = {"driver": "blkdebug", "image": "disk", "align": 512}
            daemon.execute("blockdev-add", node_name="sectors", **sectors)
            daemon.execute("block-dirty-bitmap-add", node="disk", name="off", disabled=True)
            daemon.execute("nbd-server-start", addr=address)
            nbd = {"type": "nbd", "id": "e", "node_name": "disk", "description": "a disk"}
            more = {"bitmaps": ["off"], "allocation_depth": True}
            assert daemon.execute("block-export-add", **nbd, **more) == {}
            two = {**nbd, "id": "two", "node_name": "sectors"}
            assert daemon.execute("block-export-add", **two) == {}
            connections[daemon] = socket.socket(socket.AF_UNIX)
            connections[daemon].settimeout(20)
            connections[daemon].connect(str(daemon.nbd))
            assert connections[daemon].recv(18) == b"NBDMAGICIHAVEOPT\0\3"
            connections[daemon].sendall(FIXED_NO_ZEROES)
        for name, words in WORDS.items():
            answers = []
            for connection in connections.values():
                connection.sendall(words)
                answers.append(option_replies(read_answers(connection)))
            assert answers[0] == answers[1], name
        for connection in connections.values():
            connection.close()
