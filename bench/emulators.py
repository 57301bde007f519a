"""A process with many emulators in it; ``bench_scale`` starts it and asks for its memory.

Each emulator is a ``BlockLayer`` with a monitor on a Unix socket of its own. Through the monitor it
is given a qcow2 disk and a dirty bitmap, by a client that stays connected. Line by line on standard
output: the resident bytes before the first emulator, and with all of them; the seconds that took.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path

from blkxact.block_layer import BlockLayer
from blkxact.commands import Dispatcher
from blkxact.qmp_server import QmpServer
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.events import EventSink
from blkxact.storage.os_file import OsStorage
from blkxact.storage.sockets import bind_unix


async def main(directory: Path, count: int) -> None:
    """Build them, report, and stay until standard input ends."""
    await build(directory, 0)  # the first one loads modules
    before, started = resident(), time.perf_counter()
    keep = [await build(directory, number) for number in range(1, count + 1)]
    taken = time.perf_counter() - started
    print(before, resident(), taken, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for layer, server, writer in keep:
        await layer.shutdown()
        writer.close()
        await server.close()


async def build(directory: Path, number: int) -> tuple[BlockLayer, QmpServer, asyncio.StreamWriter]:
    """Return an emulator with a disk, a bitmap and a connected monitor."""
    clock = SystemClock()
    events = EventSink(clock)
    layer = BlockLayer(OsStorage(), clock, events, rng=random.Random(number))
    server = QmpServer(Dispatcher(layer), events, clock, package="bench")
    path = str(directory / f"m{number}")
    server.listen(f"unix:{path}", bind_unix(path, 0o600), path=path)
    reader, writer = await asyncio.open_unix_connection(path)
    await reader.readline()
    disk = {"driver": "file", "filename": str(directory / f"{number}.qcow2")}
    for command, arguments in (
        ("qmp_capabilities", {}),
        ("blockdev-add", {"driver": "qcow2", "node-name": "disk", "file": disk}),
        ("block-dirty-bitmap-add", {"node": "disk", "name": "bitmap"}),
    ):
        message = {"execute": command, "arguments": arguments}
        writer.write(json.dumps(message).encode())
        reply = json.loads(await reader.readline())
        assert "return" in reply, reply
    return layer, server, writer


def resident() -> int:
    """Return the resident bytes of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
