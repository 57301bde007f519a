"""Exports: nodes that clients from outside read and write.

Invariants:

* An export reaches its node through a backend of its own, so permissions, drains and blockers meet
  it like any device. While it lives nobody may resize the node.
* Its bitmaps are busy while it lives, and free in the moment in which it is gone.
* Removed *safely* it must have no client; removed *hard* its clients are disconnected. Either way
  it goes when the last request of the last client is over, and BLOCK_EXPORT_DELETED is sent.

QEMU's counterpart: ``block/export/export.c``, ``nbd/server.c`` (nbd_export_create).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from blkxact.bitmap import BitmapCheck, DirtyBitmap
from blkxact.block.backend import BlockBackend
from blkxact.block.chain import next_layer
from blkxact.block.graph import Graph
from blkxact.block.names import is_well_formed
from blkxact.block.node import BlockNode
from blkxact.block.threads import check_move
from blkxact.block.types import SECTOR, Permission
from blkxact.enums import BlockExportRemoveMode
from blkxact.errors import QmpError, strerror
from blkxact.nbd.protocol import (
    ALLOCATION_DEPTH,
    BASE_ALLOCATION,
    DIRTY_BITMAP,
    MAX_STRING,
    TransmissionFlag,
    pack_text,
)
from blkxact.qapi.block_core import BlockDirtyBitmap
from blkxact.qapi.block_export import BlockExportOptionsNbd
from blkxact.runtime.points import Points
from blkxact.runtime.steps import yield_turn

BASE_CONTEXT = 0
DEPTH_CONTEXT = 1
FIRST_BITMAP_CONTEXT = 2
"""Numbers of metadata contexts on the wire, as QEMU has them."""

FindBitmap = Callable[[str, str], tuple[BlockNode, DirtyBitmap]]
GOODBYE_TURNS = 3
"""Turns of the loop in which what a client has sent last is read, and its connection closed."""

Emit = Callable[[str, Mapping[str, Any]], None]


class ExportUser(Protocol):
    """A client of an export."""

    def disconnect(self) -> None:
        """Leave now; ``BlockExport.release`` is called when the last request is over."""


class BlockExport:
    """One export; its attributes are what the NBD handshake offers (``nbd.server_handshake``)."""

    def __init__(
        self,
        options: BlockExportOptionsNbd,
        backend: BlockBackend,
        bitmaps: list[DirtyBitmap],
        *,
        multi_conn: bool,
        on_unused: Callable[[BlockExport], None],
        points: Points | None = None,
    ) -> None:
        self.points = Points() if points is None else points
        self.id = options.id
        self.name = _name_of(options)
        self.description = options.description
        self.backend = backend
        self.size = backend.length // SECTOR * SECTOR
        self.flags = _flags(writable=options.writable, multi_conn=multi_conn)
        self.contexts: dict[int, str] = {BASE_CONTEXT: BASE_ALLOCATION}
        if options.allocation_depth:
            self.contexts[DEPTH_CONTEXT] = ALLOCATION_DEPTH
        self.bitmaps: dict[int, DirtyBitmap] = {}
        """By the numbers of their contexts."""
        for number, bitmap in enumerate(bitmaps, FIRST_BITMAP_CONTEXT):
            self.bitmaps[number] = bitmap
            self.contexts[number] = f"{DIRTY_BITMAP}{bitmap.name}"
            bitmap.busy = True
        self.users: set[ExportUser] = set()
        self.shutting_down = False
        self._on_unused = on_unused

    @property
    def writable(self) -> bool:
        """Whether clients may write."""
        return not self.flags & TransmissionFlag.READ_ONLY

    @property
    def inactive(self) -> bool:
        """Whether the node is inactive: clients may only read then."""
        node = self.backend.node
        return node is not None and node.inactive

    @property
    def minimum_block(self) -> int:
        """The alignment that the node's driver has, in bytes."""
        node = self.backend.node
        return node.driver.request_alignment if node is not None else 1

    def info(self) -> dict[str, Any]:
        """Return the BlockExportInfo."""
        node = self.backend.node
        return {
            "node-name": node.node_name if node is not None else "",
            "shutting-down": self.shutting_down,
            "type": "nbd",
            "id": self.id,
        }

    def use(self, user: ExportUser) -> None:
        """Note a client."""
        assert not self.shutting_down, self.id
        self.users.add(user)

    def release(self, user: ExportUser) -> None:
        """Note that a client has gone, all its requests being over."""
        self.users.remove(user)
        if self.shutting_down and not self.users:
            self._on_unused(self)

    def shut_down(self) -> None:
        """Disconnect all clients and go when they have gone; a second call does nothing."""
        if self.shutting_down:
            return
        self.shutting_down = True
        if not self.users:
            self._on_unused(self)
        for user in list(self.users):
            user.disconnect()

    def let_go(self) -> None:
        """Give back the node and the bitmaps."""
        for bitmap in self.bitmaps.values():
            bitmap.busy = False
        self.backend.close()


class Exports:
    """The exports of one emulator. ``objects`` are those of ``object-add``."""

    def __init__(
        self,
        graph: Graph,
        objects: Mapping[str, Any],
        find_bitmap: FindBitmap,
        emit: Emit,
        *,
        extended_headers: bool = False,
    ) -> None:
        self._graph = graph
        self._objects = objects
        self._find_bitmap = find_bitmap
        self._emit = emit
        self._exports: dict[str, BlockExport] = {}
        self._by_name: dict[str, BlockExport] = {}
        """The latest export of each name for clients; any before it is shutting down."""
        self._empty_waiters: list[asyncio.Future[None]] = []
        self.served = False
        """Whether there is a server that clients can reach them by."""
        self.multi_conn = True
        """Whether that server takes more than one client."""
        self.extended_headers = extended_headers
        """Whether that server offers extended headers."""

    @property
    def points(self) -> Points:
        """The points of the emulator."""
        return self._graph.points

    # What the handshake asks

    def offers(self) -> Iterable[BlockExport]:
        """Return the exports that a client may choose."""
        return [export for export in self._exports.values() if not export.shutting_down]

    def find_offer(self, name: str) -> BlockExport | None:
        """Return the export with that name for clients."""
        export = self._by_name.get(name)
        return export if export is not None and not export.shutting_down else None

    # Commands

    def query(self) -> list[dict[str, Any]]:
        """Return what query-block-exports returns: the latest first, as in QEMU."""
        return [export.info() for export in reversed(self._exports.values())]

    def add(self, options: BlockExportOptionsNbd) -> BlockExport:
        """Make an export (block-export-add). Raises ``QmpError`` with nothing changed."""
        self._graph.points.hit("export.add", export=options.id)
        node = self.check(options)
        perm = Permission.CONSISTENT_READ
        if options.writable:
            perm |= Permission.WRITE
        backend = BlockBackend(self._graph, perm=perm, shared=Permission.ALL)
        backend.allow_inactive = options.allow_inactive
        backend.insert(node)
        backend.write_cache = not options.writethrough
        try:
            self._check_name(options)
            _check_length(backend)
            backend.set_permissions(perm, Permission.ALL & ~Permission.RESIZE)
            bitmaps = self._bitmaps(options, node)
        except BaseException:
            backend.close()
            raise
        export = BlockExport(
            options,
            backend,
            bitmaps,
            multi_conn=self.multi_conn,
            on_unused=self._unused,
            points=self._graph.points,
        )
        self._exports[export.id] = self._by_name[export.name] = export
        return export

    async def remove(
        self, export_id: str, mode: BlockExportRemoveMode = BlockExportRemoveMode.SAFE
    ) -> None:
        """Begin to remove an export (block-export-del). Raises ``QmpError``.

        A client that has left already does not count as one, though nobody may have noticed yet.
        """
        export = self._exports.get(export_id)
        if export is None:
            raise QmpError(f"Export '{export_id}' is not found")
        if export.shutting_down:
            raise QmpError(f"Export '{export_id}' is already shutting down")
        for _ in range(GOODBYE_TURNS):
            if mode is BlockExportRemoveMode.SAFE and export.users:
                await yield_turn()
        if mode is BlockExportRemoveMode.SAFE and export.users:
            error = QmpError(f"export '{export_id}' still in use")
            error.add_note("Use mode='hard' to force client disconnect")
            raise error
        export.shut_down()

    async def close_all(self) -> None:
        """Disconnect all clients and wait until all exports are gone."""
        for export in list(self._exports.values()):
            export.shut_down()
        while self._exports:
            waiter = asyncio.get_running_loop().create_future()
            self._empty_waiters.append(waiter)
            await waiter

    def check(self, options: BlockExportOptionsNbd) -> BlockNode:
        """Return the node to export, as far as nothing has to be done first; ``QmpError``."""
        if options.fixed_iothread and isinstance(options.iothread, list):
            raise QmpError("Cannot use fixed-iothread for a multi-threaded export")
        if not is_well_formed(options.id):
            raise QmpError("Invalid block export id")
        if options.id in self._exports:
            raise QmpError(f"Block export id '{options.id}' is already in use")
        node = self._graph.nodes.get(options.node_name)
        if node is None or not node.is_open:
            raise QmpError(f"Cannot find device='' nor node-name='{options.node_name}'")
        if options.writable and node.read_only:
            raise QmpError("Cannot export read-only node as writable")
        self._check_iothreads(options, node)
        return node

    # Parts

    def _check_iothreads(self, options: BlockExportOptionsNbd, node: BlockNode) -> None:
        names = options.iothread
        if names == []:
            raise QmpError("The set of I/O threads must not be empty")
        for name in names if isinstance(names, list) else [] if names is None else [names]:
            thread = self._objects.get(name)
            if thread is None or thread.qom_type != "iothread":
                raise QmpError(f'iothread "{name}" not found')
        if isinstance(names, str) and options.fixed_iothread:
            check_move(node, names)

    def _check_name(self, options: BlockExportOptionsNbd) -> None:
        if not self.served:
            raise QmpError("NBD server not running")
        name = _name_of(options)
        for what, text in (("export name", name), ("description", options.description)):
            if len(pack_text(text or "")) > MAX_STRING:
                raise QmpError(f"{what} '{text}' too long")
        if self.find_offer(name) is not None:
            raise QmpError(f"NBD server already has export named '{name}'")
        if isinstance(options.iothread, list):
            raise QmpError("NBD export does not support multi-threading")

    def _bitmaps(self, options: BlockExportOptionsNbd, node: BlockNode) -> list[DirtyBitmap]:
        """Return the bitmaps to export; raises ``QmpError``."""
        found = []
        for ref in options.bitmaps or []:
            if isinstance(ref, BlockDirtyBitmap):
                _, bitmap = self._find_bitmap(ref.node, ref.name)
            else:
                bitmap = _bitmap_in_chain(node, ref, writable=options.writable)
            bitmap.check(BitmapCheck.ALLOW_READ_ONLY)
            found.append(bitmap)
        return found

    def _unused(self, export: BlockExport) -> None:
        # Not at once: who calls this may still use the export.
        asyncio.get_running_loop().call_soon(self._delete, export)

    def _delete(self, export: BlockExport) -> None:
        del self._exports[export.id]
        if self._by_name[export.name] is export:
            del self._by_name[export.name]
        export.let_go()
        self._graph.points.hit("export.deleted", export=export.id)
        self._emit("BLOCK_EXPORT_DELETED", {"id": export.id})
        if not self._exports:
            waiters, self._empty_waiters = self._empty_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def _name_of(options: BlockExportOptionsNbd) -> str:
    return options.node_name if options.name is None else options.name


def _flags(*, writable: bool, multi_conn: bool) -> TransmissionFlag:
    flag = TransmissionFlag
    flags = flag.HAS_FLAGS | flag.SEND_FLUSH | flag.SEND_FUA | flag.SEND_CACHE
    if multi_conn:
        flags |= flag.CAN_MULTI_CONN
    if writable:
        return flags | flag.SEND_TRIM | flag.SEND_WRITE_ZEROES | flag.SEND_FAST_ZERO
    return flags | flag.READ_ONLY


def _check_length(backend: BlockBackend) -> None:
    try:
        _ = backend.length
    except OSError as error:
        text = f"Failed to determine the NBD export's length: {strerror(error)}"
        raise QmpError(text) from error


def _bitmap_in_chain(node: BlockNode, name: str, *, writable: bool) -> DirtyBitmap:
    """Return the bitmap of that name of the node or the next layer below that has one."""
    layer: BlockNode | None = node
    while layer is not None:
        bitmap = layer.bitmaps.get(name)
        if bitmap is not None:
            if not writable and not layer.read_only and bitmap.enabled:
                raise QmpError(f"Enabled bitmap '{name}' incompatible with readonly export")
            return bitmap
        # A format over one child is no filter, though raw passes all through (as in QEMU).
        layer = next_layer(layer)
    raise QmpError(f"Bitmap '{name}' is not found")
