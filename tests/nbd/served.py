"""An NBD server over disks in memory, and clients that speak byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blkxact.bitmap import DirtyBitmap
from blkxact.errors import QmpError
from blkxact.export.exports import BlockExport, Exports
from blkxact.export.nbd_server import NbdServer
from blkxact.nbd.protocol import GREETING, OPTION_REPLY, Command, CommandFlag, Option
from blkxact.qapi.block_export import BlockExportOptionsNbd
from blkxact.qapi.sockets import UnixSocketAddress
from blkxact.testing.waiting import until
from tests.memory_disks import MemoryDisks

from .talk import FIXED_NO_ZEROES, Reply, ReplyReader, contexts, go, option, request, write

MIB = 1 << 20
PATIENCE_S = 20


class ManualClock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self.now = 0.0

    def realtime_us(self) -> int:
        return int(self.now * 1e6)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    def call_later(self, seconds: float, function: Callable[[], None]) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: None if done.cancelled() else function())
        self._sleepers.append((self.now + seconds, future))
        return future

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for end, future in self._sleepers:
            if end <= self.now and not future.done():
                future.set_result(None)

    @property
    def sleepers(self) -> int:
        return sum(not future.done() for _, future in self._sleepers)


class Client:
    """A client; ``reads`` remembers the lengths of simple reads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.reads: dict[int, int] = {}
        self._replies = ReplyReader(self.reads)
        self._cookie = 0
        self.extended = False

    async def exactly(self, length: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(length), PATIENCE_S)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answers(self) -> list[tuple[int, bytes]]:
        """Return the answers to one option, up to the last."""
        found = []
        while True:
            _, _, reply, length = OPTION_REPLY.unpack(await self.exactly(OPTION_REPLY.size))
            found.append((reply, await self.exactly(length)))
            if reply == 1 or reply & 1 << 31:
                return found

    async def shake(
        self,
        name: str = "disk",
        *,
        structured: bool = True,
        extended: bool = False,
        maps: tuple[str, ...] = (),
    ) -> None:
        """Do the whole handshake."""
        await self.exactly(GREETING.size)
        self.send(FIXED_NO_ZEROES)
        words = [go(name)]
        if maps:
            words.insert(0, option(Option.SET_META_CONTEXT, contexts(name, *maps)))
        if extended:
            words.insert(0, option(Option.EXTENDED_HEADERS))
            self.extended = self._replies.extended = True
        elif structured:
            words.insert(0, option(Option.STRUCTURED_REPLY))
        for word in words:
            self.send(word)
            assert (await self.answers())[-1][0] == 1

    async def reply(self) -> Reply:
        return await self._replies.next(self.exactly)

    async def ask(
        self,
        command: int,
        offset: int = 0,
        length: int = 0,
        flags: int = 0,
        payload: bytes = b"",
    ) -> Reply:
        self._cookie += 1
        self.reads[self._cookie] = length if command == Command.READ else 0
        how: dict[str, Any] = {"cookie": self._cookie, "extended": self.extended}
        self.send(request(command, offset, length, flags=flags, payload=payload, **how))
        reply = await self.reply()
        assert reply.cookie == self._cookie
        return reply

    async def write(self, offset: int, data: bytes, flags: int = 0) -> Reply:
        self._cookie += 1
        if self.extended:
            flags |= CommandFlag.PAYLOAD_LEN
        self.send(write(offset, data, flags=flags, cookie=self._cookie, extended=self.extended))
        return await self.reply()

    async def read(self, offset: int, length: int) -> bytes:
        """Read with structured replies."""
        reply = await self.ask(Command.READ, offset, length)
        assert not reply.error, reply.message
        data = bytearray(length)
        for kind, chunk in reply.chunks:
            at = int.from_bytes(chunk[:8], "big") - offset
            if kind == 1:
                data[at : at + len(chunk) - 8] = chunk[8:]
        return bytes(data)

    async def closed(self) -> bytes:
        """Wait until the server closes; return what it still sent."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        except ConnectionError:
            return b""

    def leave(self) -> None:
        self.writer.transport.abort()


class Served:
    """Nodes ``disk`` and ``other`` of 4 MiB, a server at ``path``."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "nbd.sock")
        self.clock = ManualClock()
        self.disks = MemoryDisks(self.clock)
        self.disk = self.disks.disk("disk", 4 * MIB)
        self.other = self.disks.disk("other", 4 * MIB)
        self.graph = self.disks.graph
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.objects: dict[str, Any] = {}
        self.exports = Exports(
            self.graph, self.objects, self._find_bitmap, lambda *event: self.events.append(event)
        )
        self.server = NbdServer(self.exports, self.clock)
        self.clients: list[Client] = []

    def _find_bitmap(self, node: str, name: str) -> Any:
        if name not in self.graph.nodes[node].bitmaps:
            raise QmpError(f"Dirty bitmap '{name}' not found")
        return self.graph.nodes[node], self.graph.nodes[node].bitmaps[name]

    def start(self, max_connections: int = 0, **how: Any) -> None:
        address = UnixSocketAddress(path=self.path)
        self.server.start(address, max_connections=max_connections, **how)

    def bitmap(self, node: str, name: str, *, enabled: bool = True) -> DirtyBitmap:
        bitmap = DirtyBitmap(4 * MIB, 65536, name)
        bitmap.enabled = enabled
        self.graph.nodes[node].bitmaps[name] = bitmap
        return bitmap

    def export(self, node: str = "disk", export_id: str = "e", **members: Any) -> BlockExport:
        members = {"writable": True, **members}
        options = BlockExportOptionsNbd(type="nbd", id=export_id, node_name=node, **members)
        return self.exports.add(options)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_unix_connection(self.path))
        self.clients.append(client)
        return client

    async def client(self, **how: Any) -> Client:
        """Return a client that has chosen its export."""
        client = await self.connect()
        await client.shake(**how)
        return client

    async def close(self) -> None:
        for client in self.clients:
            client.leave()
        self.disk.hook = self.other.hook = None
        await self.server.close()
        await until(lambda: not self.server.statistics().clients)
