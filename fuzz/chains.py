"""What must hold for chains of backing files whose names a hostile image chooses.

A chain is opened, or refused with ``QmpError``; it has an end, and nothing stays open that has no
node. The number of files that are opened for it has a limit.
"""

from __future__ import annotations

import random

from blkxact.block.graph import Graph
from blkxact.block.open_context import Environment
from blkxact.blockdev.backing_name import MAX_BACKING_DEPTH
from blkxact.blockdev.blockdev import Blockdev
from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.layout import MAX_BACKING_NAME
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.throttle.group import ThrottleGroups
from blkxact.storage.network import SystemNetwork
from blkxact.testing.memory_file import MemoryStorage

MAX_OPENED = 4 * (MAX_BACKING_DEPTH + 2)
"""Files that may be opened for one chain."""
IMAGES = ("/a", "/b", "/c")

NAMES = (
    "/a", "/b", "/c", "/raw", "/none", "a", "./a", "../a", "file:/b", "file:b", "nbd:x", ":",
    "json:",
    'json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}',
    'json:{"driver":"qcow2","file.filename":"/b"}',
    'json:{"driver":"raw","file":{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}}',
    'json:{"driver":"raw","file":{"driver":"raw","file":{"filename":"/b"}}}',
    'json:{"file":{"driver":"qcow2","file":"/a","backing":null}}',
    'json:{"driver":"qcow2","file":{"filename":"/c"},"backing":{"filename":"/a"}}',
    'json:{"driver":"qcow2","file":{"filename":"/c"},"backing":{"driver":"qcow2"}}',
    'json:{"driver":"blkdebug","image":{"filename":"/a"}}',
    'json:{"driver":"throttle","throttle-group":"g","file":{"filename":"/a"}}',
    'json:{"driver":"null-co","size":"x"}', 'json:{"driver":5}',
    'json:{"driver":"qcow2","file":[]}',
    'json:{"file":1,"file.x":2}', 'json:{"file.x":2,"file":{"x":3}}', 'json:{"driver":null}',
    'json:{"driver":"qcow2","file":null}', 'json:{"driver":"file","filename":["/a"]}',
    'json:{"read-only":"x","driver":"raw","file":"/a"}',
    'json:{"driver":"file","filename":"\\u0000"}',
    "json:[]", "json:5", "json:" + "[" * 900, 'json:{"a":' * 90, "json:{}", "fat:/", "x" * 1000,
)  # fmt: skip
FORMATS = ("qcow2", None, "raw", "nope", "file", "null-co")


async def exercise(data: bytes) -> bool:
    """Open the chain that begins at ``/a``; return whether that went well."""
    storage = MemoryStorage()
    storage.load("/raw", bytes(4096))
    pieces = data.split(b"\xff", len(IMAGES) - 1)
    for image, piece in zip(IMAGES, (*pieces, b"", b""), strict=False):
        await _make(storage, image, piece)
    clock, rng = SystemClock(), random.Random(0)
    groups, network = ThrottleGroups(clock), SystemNetwork(clock)
    blockdev = Blockdev(Environment(Graph(rng), storage, clock, rng, groups, network))
    opened_before = storage.requests.get("open", 0)
    try:
        node = await blockdev.open_image(IMAGES[0], {"read-only": True}, "qcow2")
    except QmpError as error:
        found = not error.desc
    else:
        found = bool(node.filename)
    await blockdev.close_all()
    assert storage.requests["open"] - opened_before <= MAX_OPENED
    assert not storage.open_files, "a file stays open"
    return found


async def _make(storage: MemoryStorage, path: str, piece: bytes) -> None:
    """Create an image; the piece tells its backing file's name and format."""
    child = StorageChild(await storage.create(path))
    name: str | None = None
    fmt: str | None = None
    if piece:
        fmt = FORMATS[piece[0] // 64 % len(FORMATS)]
        known = piece[0] % 64
        name = NAMES[known] if known < len(NAMES) else ""
        name += piece[1:].decode(errors="surrogateescape")
        name = name[:MAX_BACKING_NAME].replace("\0", "") or None
    options = CreateOptions(65536, backing_file=name, backing_format=fmt if name else None)
    await create(child, options)
    await child.file.close()
