"""nbd: an export of an NBD server as a protocol node.

Invariants:

* A request is cut to what the server takes; its pieces are in flight together.
* What the server does not promise to be zeroes is never taken for zeroes.
* An export that cannot be written is opened read-only only if ``auto-read-only`` allows it.

QEMU's counterpart: ``block/nbd.c``; ``qapi/block-core.json`` (BlockdevOptionsNbd).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from blkxact.block.driver_api import BlockDriver
from blkxact.block.open_context import OpenContext
from blkxact.block.types import SECTOR, Extent, Status, WriteFlags
from blkxact.enums import PreallocMode
from blkxact.errors import QmpError, os_error
from blkxact.nbd.client_handshake import ClientHandshake, ExportInfo
from blkxact.nbd.protocol import (
    ALLOCATION_DEPTH,
    BASE_ALLOCATION,
    Command,
    CommandFlag,
    Mode,
    State,
    TransmissionFlag,
)
from blkxact.storage.api import Buffer, FileRange, Payload, payload_slice
from blkxact.storage.errors import CopyError

from .channel import NbdChannel
from .client import MAX_REQUESTS, NbdClient, OtherExportError
from .limits import alignment, limits_of, max_payload, max_status, max_zeroes
from .options import check_lengths, parse_name, short_name, tls_name, with_server

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsNbd

MAX_EXPORT: Final = (2**63 - 1) & ~(2**30 - 1)
"""Bytes of the longest image (BDRV_MAX_LENGTH)."""
FILE_PIECE: Final = 1 << 20
"""Bytes of a file's range that are read and sent at a time."""
FILE_PIECES: Final = 4
"""Such pieces that are in memory together."""

T = TypeVar("T")

HOLE: Final = Status.ZERO | Status.ALLOCATED
DATA: Final = Status.DATA | Status.ALLOCATED


class NbdDriver(BlockDriver):
    """The driver ``nbd``. ``length`` is the export's, to the byte."""

    format_name = "nbd"
    is_protocol = True
    is_identity_mapped = True
    holds_new_images = True
    strong_options = frozenset({"server", "export", "tls-creds", "tls-hostname"})
    reopenable = frozenset()

    def __init__(
        self,
        context: OpenContext,
        children: Mapping[str, Child],
        options: BlockdevOptionsNbd,
    ) -> None:
        super().__init__(context, children)
        self.options = options
        self.filename = short_name(options)
        self.info = ExportInfo()
        self._client = NbdClient(self._connect, context.env.clock, options.reconnect_delay)

    @classmethod
    def parse_filename(cls, filename: str) -> dict[str, Any]:
        """Return the options that a URI or an older name stands for; raises ``QmpError``."""
        return parse_name(filename)

    @classmethod
    def schema_options(cls, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Let ``server`` stand for its older members; raises ``QmpError``."""
        return with_server(members)

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsNbd, children: Mapping[str, Child]
    ) -> NbdDriver:
        """Connect; raises ``QmpError``."""
        check_lengths(options)
        driver = cls(context, children, options)
        context.env.graph.yank.register(context.node_name, driver)
        try:
            await driver._client.open(driver.options.open_timeout)
            driver._take_info()
        except BaseException:
            await driver.close()
            raise
        return driver

    async def close(self) -> None:
        """Leave the server."""
        try:
            await self._client.close()
        finally:
            self.context.env.graph.yank.unregister(self)

    def prepare_reopen(
        self, context: OpenContext, options: BlockdevOptionsNbd
    ) -> Callable[[], None]:
        """Refuse to write to an export that the server keeps read-only."""
        if not context.read_only and self.info.flags & TransmissionFlag.READ_ONLY:
            raise QmpError("Can't reopen read-only NBD mount as read/write")
        return super().prepare_reopen(context, options)

    @property
    def is_waiting(self) -> bool:
        """Whether a request or the first connection waits for the server."""
        return self._client.is_waiting

    def cancel_in_flight(self) -> None:
        """Let the requests that wait for a connection fail."""
        self._client.cancel_waiting()

    def yank(self) -> None:
        """Cut the connection; all requests fail from now on."""
        self._client.yank()

    # Connecting

    async def _connect(self) -> NbdChannel:
        """Return a new connection to the export; raises ``QmpError``."""
        options, env = self.options, self.context.env
        await env.graph.points.reach("server.connect", node=self.context.node_name)
        network, tls = env.network, None
        if options.tls_creds is not None:
            tls = env.tls_client(options.tls_creds)
        handshake = ClientHandshake(
            options.export,
            tls=tls is not None,
            context=options.x_dirty_bitmap or BASE_ALLOCATION,
        )
        channel = NbdChannel(handshake)
        try:
            await network.connect(options.server, lambda: channel)
            while await channel.shake_hands():
                assert tls is not None
                channel.encrypted(
                    await network.start_tls(channel.transport, channel, tls, tls_name(options))
                )
            self._check_export(channel.info)
        except BaseException:
            channel.abort()
            raise
        self.info = channel.info
        return channel

    def _check_export(self, info: ExportInfo) -> None:
        """Refuse an export that cannot be used, or that is another one than before."""
        bitmap = self.options.x_dirty_bitmap
        if bitmap is not None and info.context is None:
            raise QmpError(f"requested x-dirty-bitmap {bitmap} not found")
        old = self.info
        if not old.flags:  # the first connection
            return
        changes = {
            f"size {info.size} instead of {old.size}": info.size != old.size,
            "an export that cannot be written any more": (
                info.flags & TransmissionFlag.READ_ONLY and not self.read_only
            ),
            "less means to make writes durable": (
                old.flags & ~info.flags & (TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_FUA)
            ),
            "larger blocks": alignment(info) > self.request_alignment,
            "shorter requests": info.mode < Mode.EXTENDED <= old.mode,
        }
        for change, is_so in changes.items():
            if is_so:
                raise OtherExportError(f"after the connection was lost it has {change}")

    def _take_info(self) -> None:
        info = self.info
        if info.flags & TransmissionFlag.READ_ONLY and not self.read_only:
            if not self.context.auto_read_only:
                raise QmpError("NBD export is read-only")
            self.read_only = True
        if info.size > MAX_EXPORT:
            raise QmpError("Could not refresh total sector count: File too large")
        self.length = info.size
        self.request_alignment = alignment(info)
        self.own_limits = limits_of(info)
        self.supports_fua = bool(info.flags & TransmissionFlag.SEND_FUA)
        self.unmaps_zeroes = bool(info.flags & TransmissionFlag.SEND_WRITE_ZEROES)

    # Requests

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read."""
        most = max_payload(self.info)
        if length <= most:
            return (await self._client.request(Command.READ, 0, offset, length)).data
        parts = await together(
            self._client.request(Command.READ, 0, at, size)
            for at, size in _pieces(offset, length, most)
        )
        return b"".join(part.data for part in parts)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write; a range of a file is read piece by piece while others are being sent."""
        if offset + len(payload) > -(-self.length // SECTOR) * SECTOR:
            raise os_error(errno.ENOSPC)
        bits = CommandFlag.FUA if flags & WriteFlags.FUA else 0
        if isinstance(payload, FileRange):
            await self._write_range(offset, payload, bits)
            return
        most = max_payload(self.info)
        if len(payload) <= most:
            await self._client.request(Command.WRITE, bits, offset, len(payload), payload)
            return
        view = memoryview(payload)
        await together(
            self._client.request(
                Command.WRITE, bits, at, size, view[at - offset : at - offset + size]
            )
            for at, size in _pieces(offset, len(payload), most)
        )

    async def _write_range(self, offset: int, source: FileRange, bits: int) -> None:
        room = asyncio.Semaphore(FILE_PIECES)

        async def copy(at: int, size: int) -> None:
            piece = payload_slice(source, at - offset, at - offset + size)
            assert isinstance(piece, FileRange)
            async with room:
                data = await _read_piece(piece)
                await self._client.request(Command.WRITE, bits, at, size, data)

        step = min(FILE_PIECE, max_payload(self.info))
        await together(copy(at, size) for at, size in _pieces(offset, len(source), step))

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Let the server make zeroes, if it can."""
        able = self.info.flags
        if not able & TransmissionFlag.SEND_WRITE_ZEROES:
            raise os_error(errno.ENOTSUP)
        bits = 0
        if flags & WriteFlags.FUA:
            bits |= CommandFlag.FUA
        if not flags & WriteFlags.MAY_UNMAP:
            bits |= CommandFlag.NO_HOLE
        if flags & WriteFlags.NO_FALLBACK:
            if not able & TransmissionFlag.SEND_FAST_ZERO:
                raise os_error(errno.ENOTSUP)
            bits |= CommandFlag.FAST_ZERO
        await self._send_all(Command.WRITE_ZEROES, bits, offset, length, max_zeroes(self.info))

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard the range, if the server supports TRIM."""
        if self.info.flags & TransmissionFlag.SEND_TRIM:
            await self._send_all(Command.TRIM, 0, offset, length, max_status(self.info))

    async def _send_all(
        self, command: Command, bits: int, offset: int, length: int, most: int
    ) -> None:
        await together(
            self._client.request(command, bits, at, size)
            for at, size in _pieces(offset, length, most)
        )

    async def flush(self) -> None:
        """Make durable what was written, if the server knows what that is."""
        if self.info.flags & TransmissionFlag.SEND_FLUSH:
            await self._client.flush()

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return what the server says of the range; without block status, all is data."""
        end = offset + length
        if self.info.context is None:
            return [Extent(offset, length, DATA)]
        most = max_status(self.info)
        extents: list[Extent] = []
        stop = min(end, self.length)
        while offset < stop:
            asked = min(most, stop - offset)
            answer = await self._client.request(Command.BLOCK_STATUS, 0, offset, asked)
            for size, status in self._whole_blocks(answer.extents):
                inside = min(size, stop - offset)
                if inside <= 0:
                    break
                _append(extents, Extent(offset, inside, self._status(status)))
                offset += inside
        if offset < end:  # the rest of the last sector
            _append(extents, Extent(offset, end - offset, HOLE))
        return extents

    def _whole_blocks(self, extents: list[tuple[int, int]]) -> Iterable[tuple[int, int]]:
        """Yield extents up to the first that splits a block, which it should not; less the split.

        If that leaves nothing, a block of which nothing is known (data).
        """
        unit = self.request_alignment
        for length, status in extents:
            if length % unit:
                yield (length - length % unit, status) if length > unit else (unit, 0)
                return
            yield length, status

    def _status(self, bits: int) -> Status:
        """Return what a status of the negotiated context means, as QEMU sees it."""
        if self.options.x_dirty_bitmap == ALLOCATION_DEPTH:
            bits = min(bits, 2)
        if bits & State.ZERO:
            data = Status.NONE if bits & State.HOLE else Status.DATA
            return data | HOLE
        return Status.UNKNOWN if bits & State.HOLE else DATA

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Refuse another length: the server has decided."""
        del prealloc
        if length != self.length:
            raise QmpError("Cannot resize NBD nodes")


def _pieces(offset: int, length: int, most: int) -> Iterable[tuple[int, int]]:
    for at in range(offset, offset + length, most):
        yield at, min(most, offset + length - at)


async def _read_piece(piece: FileRange) -> Buffer:
    try:
        return await piece.file.pread(piece.offset, piece.length)
    except OSError as error:
        raise CopyError(error, reading=True) from error


def _append(extents: list[Extent], new: Extent) -> None:
    if extents and extents[-1].status == new.status:
        last = extents[-1]
        extents[-1] = last._replace(length=last.length + new.length)
    else:
        extents.append(new)


async def together(requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of requests that are under way at once, as many as are useful.

    Raises the first error, when all that were begun are over: a late write must not hit what is
    newer.
    """
    tasks: list[asyncio.Task[T]] = []
    running: set[asyncio.Task[T]] = set()
    failed = False
    for request in requests:
        task = asyncio.ensure_future(request)
        tasks.append(task)
        running.add(task)
        if len(running) == MAX_REQUESTS:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            failed = any(one.exception() for one in done)
        if failed:
            break
    if running:
        await asyncio.wait(running)
    errors = [error for task in tasks if (error := task.exception())]
    if errors:
        raise errors[0]
    return [task.result() for task in tasks]
