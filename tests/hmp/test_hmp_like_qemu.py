"""The same lines to the real QEMU's human monitor and to ours: same replies, prints and errors."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient

from blkxact.block.guest import Guest
from blkxact.block_layer import BlockLayer
from blkxact.commands import COMMANDS
from blkxact.hmp import run
from blkxact.qapi.validation import validate
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.events import EventSink
from blkxact.storage.os_file import OsStorage

pytestmark = pytest.mark.qemu

IO_LINES = """
write -P 5 0 64k
read -P 6 0 64k
read -v 0 37
write 0 8M
write foo 8M
write 4k 0x10000000000000000
read 1.5k 0x200
read 1.5 512
read -- -1 512
read 0 1M -P 5 -s 64k -l 1k
read -P 5 -s 64k -l 1k 0 32k
read -P 300 0 1
read 0 0
readv 0 1k 2k
readv 0
read 0 3g
read
read -b 0 512
write -b 0 512
write -c 0 64k
write -c 0 100
write -zP 1 0 64k
write -n 0 64k
write -u 0 64k
write -bz 0 512
write -fb 0 512
write -C 0 64k
write -z 0 64k
write -zun 0 64k
write -f 512 512
write 100 +100
writev -P 7 0 1k 3k
writev 0 2g
discard 0 4g
discard 0 2M
discard 0 64k
alloc 0 128k
alloc 1M
map
info
length
l
flush
truncate -m foo 1M
aio_write -P 3 0 64k
aio_read -P 3 0 64k
aio_read -P 4 0 64k
aio_read -qP 4 0 64k
aio_write -z 0 64k 64k
aio_write -zq 0 64k
aio_write 0 4M
aio_read 0 4M
aio_read -i 0 4M
aio_flush
break write_aio A
resume A
remove_break A
break a b c
sleep x
sleep 1
bogus
help nope
write -s /nonexistent 0 512
length 1
""".strip().splitlines()

QCOW2_LINES = """
write -P 5 64k 128k
write -z 256k 64k
alloc 0 3M
map
info
break write_aio A
resume A
remove_break A
break nope A
truncate 4M
length
""".strip().splitlines()

LINES = [
    'qemu-io ro "write 0 64k"',
    'qemu-io nope "read 0 1"',
    'qemu-io -d nope "read 0 1"',
    "qemu-io",
    "qemu-io r0",
    'qemu-io r0 "read 0 1k" more',
    'qemu-io r0 "a\\tb"',
    'qemu-io r0 "a',
    'qemu-io r0 ""',
    'qemu-io r0 "read\t0 1"',
    'qemu-io r0 "read 0 1"x',
    'qemu-io -d -d r0 "read 0 1"',
    'qemu-io -- r0 "read 0 1"',
    'qemu-io/x r0 "read 0 1"',
    'qemu-io failing "map"',
    'qemu-io failing "alloc 0 1"',
    'qemu-io failing "aio_write 0 512"',
    'qemu-io failing "write 0 512"',
    'qemu-io failing "truncate 0"',
    "block_resize",
    "block_resize r0",
    "block_resize r0 x",
    "block_resize r0 1.5",
    "block_resize r0 -1",
    "block_resize r0 1Z",
    "block_resize r0 1M x",
    "block_resize r0 99999999999999999999",
    "nosuch nosuch",
    "info nosuch nosuch",
    "/x",
    "help nope nope",
    "help info nope",
    "bogus",
    "info bogus",
    "commit",
    "commit r0",
    "info block -x",
    "help nope",
    "",
]

DEADLINE = 60
"""Seconds after which a monitor that hangs is given up."""

TIMES = re.compile(r"\d\S* sec \(.*?\)|,0:00:00.*")


def node_options(directory: Path, name: str) -> list[dict]:
    raw = {"driver": "file", "filename": str(directory / f"{name}.raw")}
    qcow2 = {"driver": "file", "filename": str(directory / f"{name}.qcow2")}
    return [
        {"driver": "raw", "node-name": "r0", "file": raw},
        {"driver": "raw", "node-name": "ro", "read-only": True, "file": raw},
        {"driver": "qcow2", "node-name": "n0", "file": {"driver": "blkdebug", "image": qcow2}},
        {
            "driver": "blkdebug",
            "node-name": "failing",
            "image": {"driver": "null-co"},
            "inject-error": [
                {"event": "none", "iotype": iotype, "errno": 28}
                for iotype in ("write", "block-status")
            ],
        },
    ]


async def qemu_answers(directory: Path, lines: list[str]) -> list[tuple[str, str, str]]:
    """Return reply, standard output and standard error of each line, from the real QEMU."""
    logs = [directory / "out", directory / "err"]
    socket = directory / "qmp"
    words = ["-nodefaults", "-display", "none", "-machine", "none", "-accel", "tcg"]
    answers = []
    client = QMPClient()
    await client.start_server(str(socket))
    with logs[0].open("wb") as out, logs[1].open("wb") as errors, ExitStack() as stack:
        printed = [stack.enter_context(log.open("rb")) for log in logs]
        process = await asyncio.create_subprocess_exec(
            "qemu-system-x86_64",
            *words,
            "-qmp",
            f"unix:{socket}",
            stdout=out,
            stderr=errors,
        )
        try:
            async with asyncio.timeout(DEADLINE):
                await client.accept()
                for options in node_options(directory, "q"):
                    await client.execute("blockdev-add", options)
                for line in lines:
                    reply = await client.execute("human-monitor-command", {"command-line": line})
                    answers.append((reply, *(log.read().decode() for log in printed)))
                await client.disconnect()
        finally:
            process.kill()
            await process.wait()
    return answers


async def our_answers(directory: Path, lines: list[str]) -> list[tuple[str, str, str]]:
    clock = SystemClock()
    layer = BlockLayer(OsStorage(), clock, EventSink(clock), rng=random.Random(1))
    printed: list[str] = []
    errors: list[str] = []
    layer.guest = Guest(printed.append, errors.append)
    for options in node_options(directory, "b"):
        await layer.blockdev.add(options)

    def query(name: str, arguments: Mapping[str, Any]) -> Any:
        return COMMANDS[name].handler(layer, validate(COMMANDS[name].model, arguments))

    answers = []
    for line in lines:
        printed.clear()
        errors.clear()
        reply = await run(layer, line, query=query, lock=layer.lock)
        answers.append((reply, "".join(printed), "".join(errors)))
    await layer.shutdown()
    return answers


async def test_lines_answered_and_printed_as_qemu_does(image_dir: Path, qemu_img):
    # Files of data throughout, so that the host's holes do not matter to `map`.
    for name in "qb":
        (image_dir / f"{name}.raw").write_bytes(b"\0" * (1 << 20))
        qemu_img("create", "-f", "qcow2", image_dir / f"{name}.qcow2", "3M")
    lines = [f'qemu-io r0 "{line}"' for line in IO_LINES] + LINES
    lines += [f'qemu-io n0 "{line}"' for line in QCOW2_LINES]
    theirs = await qemu_answers(image_dir, lines)
    ours = await our_answers(image_dir, lines)
    different = [
        f"{line}\n  {want}\n  {got}"
        for line, want, got in zip(lines, theirs, ours, strict=True)
        if [TIMES.sub("T", text) for text in want] != [TIMES.sub("T", text) for text in got]
    ]
    assert not different, "\n".join(different)
    assert (image_dir / "q.raw").read_bytes() == (image_dir / "b.raw").read_bytes()
