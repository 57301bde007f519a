"""A backend: the way into the graph of a guest's device, a job or an export.

Invariants:

* A request that comes while the backend is stopped (a drained section above or around its node)
  waits, uncounted, and goes on in the order of arrival.
* A request outside of the disk fails with EIO, one without a medium with ENOMEDIUM; neither
  reaches the node.

QEMU's counterpart: ``BlockBackend`` in ``block/block-backend.c``.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from blkxact.enums import BlockDeviceIoStatus, BlockdevOnError, PreallocMode
from blkxact.errors import QmpError, os_error
from blkxact.runtime.throttle.group import ThrottleMember
from blkxact.storage.api import Buffer, Payload

from .accounting import Accounting
from .child import NO_FLAGS, Child, Parent
from .graph import Graph
from .in_flight import InFlight
from .node import BlockNode
from .types import Extent, Permission, WriteFlags


class BlockBackend(InFlight, Parent):
    """A root of the graph: at most one node (the medium), and who uses it.

    A request that waits because the backend is stopped is not in flight.
    """

    is_backend = True

    # What the device that uses the backend is; it sets what is otherwise.

    qdev_path: str | None = None
    """The path of that device in QEMU's object tree, another name for it."""
    description: str | None = None
    """How messages name a backend that has no name (an export's, a job's)."""
    io_status_enabled = False
    """Whether the device has an I/O status; see ``reports_io_status``."""
    write_cache = True
    """Whether writes may wait in caches until a flush; if not, each is durable by itself."""
    removable = False
    has_tray = False
    tray_open = False
    locked = False
    writes_by_medium = False
    """Whether it writes depends on the medium (a floppy): one that is read-only may be put in."""
    medium_flags: Mapping[str, Any] = MappingProxyType({"read-only": True})
    medium_detects_zeroes = False
    """How the last medium was opened; the next that a name is given of is opened alike."""
    allow_inactive = False
    """Its node may become inactive though it writes to it (``blk_set_force_allow_inactivate``)."""
    write_beyond_end = False
    """Requests may go beyond the end of the medium (creation of images)."""

    def __init__(
        self,
        graph: Graph,
        name: str = "",
        *,
        qdev_id: str | None = None,
        perm: Permission = Permission.NONE,
        shared: Permission = Permission.ALL,
    ) -> None:
        self.graph = graph
        self.name = name
        """The device's name for the monitor; empty: it has none."""
        self.device_name = name
        self.qdev_id = qdev_id
        """The id of the guest device that uses the backend."""
        self.perm = perm
        self.shared = shared
        self.root: Child | None = None
        self.on_read_error = BlockdevOnError.REPORT
        self.on_write_error = BlockdevOnError.ENOSPC
        self.io_status = BlockDeviceIoStatus.OK
        self.throttle: ThrottleMember | None = None
        """Its place in a throttle group (``set_throttle``)."""
        self.accounting = Accounting()
        """What the guest's device did."""
        self.on_remove: list[Callable[[], None]] = []
        """Called before the medium is taken out."""
        InFlight.__init__(self)
        self.quiesced = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        if name:
            graph.backends[name] = self

    def __repr__(self) -> str:
        return f"<BlockBackend '{self.name or self.qdev_id or ''}' -> {self.node!r}>"

    @property
    def reports_io_status(self) -> bool:
        """Whether queries report the I/O status (``blk_iostatus_is_enabled``)."""
        stopping = (BlockdevOnError.ENOSPC, BlockdevOnError.STOP)
        stops = self.on_write_error in stopping or self.on_read_error is BlockdevOnError.STOP
        return self.io_status_enabled and stops

    # The medium

    @property
    def node(self) -> BlockNode | None:
        """The medium."""
        return self.root.node if self.root else None

    @property
    def length(self) -> int:
        """Length of the medium in bytes; raises ``OSError(ENOMEDIUM)`` without one."""
        return self._medium().length

    def insert(self, node: BlockNode) -> None:
        """Put in a medium; raises ``QmpError`` if permissions disagree."""
        assert self.root is None, self
        if self.writes_by_medium:
            self.perm &= ~Permission.WRITE
            if not node.read_only:
                self.perm |= Permission.WRITE
        if node.inactive and self.may_inactivate():
            self.root = self.graph.attach(self, node)
            self.root.held_back = self.perm, self.shared
        else:
            self.root = self.graph.attach(self, node, perm=self.perm, shared=self.shared)

    def may_inactivate(self) -> bool:
        """Return whether its node may become inactive (``blk_can_inactivate``)."""
        is_device = bool(self.name or self.qdev_id or self.qdev_path)
        return is_device or self.allow_inactive or not self.perm & ~Permission.CONSISTENT_READ

    def remove(self) -> None:
        """Take out the medium, if there is one; all requests must be over."""
        listeners, self.on_remove = self.on_remove, []
        for listener in listeners:
            listener()
        self.note_medium()
        root, self.root = self.root, None
        if root is not None:
            assert not self.in_flight, self
            self.graph.detach(root)

    def note_medium(self) -> None:
        """Keep how the medium is open, if there is one, for the next."""
        node = self.node
        if node is not None:
            self.medium_flags = node.common.flags(read_only=node.read_only)
            self.medium_detects_zeroes = node.detect_zeroes != "off"

    def set_permissions(self, perm: Permission, shared: Permission) -> None:
        """Change what the backend needs and allows; raises ``QmpError`` and changes nothing."""
        if self.root is not None:
            self.graph.set_permissions(self.root, perm, shared)
        self.perm, self.shared = perm, shared

    def close(self) -> None:
        """Take out the medium and give the name back."""
        self.remove()
        self.set_throttle(None)
        self.give_name_back()

    def give_name_back(self) -> None:
        """Have no name any more."""
        if self.graph.backends.get(self.name) is self:
            del self.graph.backends[self.name]
            self.name = self.device_name = ""

    def address_of(self, child: str) -> str:
        """Return the device's name: it has one medium."""
        del child
        return self.name or self.qdev_id or self.qdev_path or ""

    def parent_description(self) -> str:
        """Name the backend in a message."""
        name = self.name or self.qdev_path or self.qdev_id
        if name:
            return f"block device '{name}'"
        return self.description or "an unnamed block device"

    # Throttling

    def set_throttle(self, member: ThrottleMember | None) -> None:
        """Change the place in a throttle group; the old one holds nothing (drained)."""
        old, self.throttle = self.throttle, member
        if old is not None:
            old.leave()
        if member is not None:
            for _ in range(self.quiesced):
                member.disable()

    # Drain

    def quiesce(self) -> None:
        """Let new requests wait until ``resume`` was called as often; throttled ones go on."""
        self.quiesced += 1
        if self.throttle is not None:
            self.throttle.disable()

    def resume(self) -> None:
        """Take back one ``quiesce``; the last one lets the waiting requests go on."""
        assert self.quiesced > 0, self
        self.quiesced -= 1
        if self.throttle is not None:
            self.throttle.enable()
        while self._queue and not self.quiesced:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _wait_resumed(self) -> None:
        while self.quiesced:
            waiter = asyncio.get_running_loop().create_future()
            self._queue.append(waiter)
            await waiter

    def _begin(self, offset: int = 0, length: int = 0) -> Child:
        """Check the range, count the request and return the edge that it takes."""
        root = self.root
        if root is None or self.tray_open:
            raise os_error(errno.ENOMEDIUM)
        if offset < 0 or length < 0:
            raise os_error(errno.EIO)
        end, node = offset + length, root.node
        # The driver's own length is at hand; the node's is that in whole sectors.
        if end > node.driver.length and end > node.length and not self.write_beyond_end:
            raise os_error(errno.EIO)
        self.in_flight += 1
        return root

    def _end(self) -> None:
        self.in_flight -= 1
        if self._idle_waiters and not self.in_flight:
            self._wake()

    def _report(self, request: str, error: OSError, offset: int = 0, length: int = 0) -> None:
        points = self.graph.points
        if points.listening:
            facts = {"request": request, "offset": offset, "length": length}
            node, text = self._medium().address, error.strerror or str(error)
            points.hit("backend.failed", node=node, **facts, error=text)

    def _medium(self) -> BlockNode:
        if self.root is None:
            raise os_error(errno.ENOMEDIUM)
        return self.root.node

    def _flags(self, flags: WriteFlags) -> WriteFlags:
        return flags if self.write_cache else flags | WriteFlags.FUA

    # Requests

    async def pread(self, offset: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes. Raises ``OSError``."""
        if self.quiesced:
            await self._wait_resumed()
        root = self._begin(offset, length)
        try:
            if self.throttle is not None:
                await self.throttle.admit(length, is_write=False)
            return await root.pread(offset, length)
        except OSError as error:
            self._report("read", error, offset, length)
            raise
        finally:
            self._end()

    async def pwrite(self, offset: int, payload: Payload, flags: WriteFlags = NO_FLAGS) -> None:
        """Write all of ``payload``. Raises ``OSError``."""
        if self.quiesced:
            await self._wait_resumed()
        root = self._begin(offset, len(payload))
        try:
            if self.throttle is not None:
                await self.throttle.admit(len(payload), is_write=True)
            await root.pwrite(offset, payload, self._flags(flags))
        except OSError as error:
            self._report("write", error, offset, len(payload))
            raise
        finally:
            self._end()

    async def pwrite_zeroes(self, offset: int, length: int, flags: WriteFlags = NO_FLAGS) -> None:
        """Make the range read as zeroes. Raises ``OSError``."""
        if self.quiesced:
            await self._wait_resumed()
        root = self._begin(offset, length)
        try:
            if self.throttle is not None:
                await self.throttle.admit(length, is_write=True)
            await root.pwrite_zeroes(offset, length, self._flags(flags))
        except OSError as error:
            self._report("write-zeroes", error, offset, length)
            raise
        finally:
            self._end()

    async def pdiscard(self, offset: int, length: int) -> None:
        """Forget the range. Raises ``OSError``."""
        if self.quiesced:
            await self._wait_resumed()
        root = self._begin(offset, length)
        try:
            await root.pdiscard(offset, length)
        except OSError as error:
            self._report("discard", error, offset, length)
            raise
        finally:
            self._end()

    async def flush(self) -> None:
        """Return when all that was written before is durable. Raises ``OSError``."""
        if self.quiesced:
            await self._wait_resumed()
        root = self._begin()
        try:
            await root.flush()
        except OSError as error:
            self._report("flush", error)
            raise
        finally:
            self._end()

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Resize the medium. Raises ``QmpError``."""
        if self.quiesced:
            await self._wait_resumed()
        try:
            root = self._begin()
        except OSError as error:
            raise QmpError("No medium inserted") from error
        try:
            await root.truncate(length, prealloc=prealloc)
        finally:
            self._end()

    async def block_status(
        self, offset: int, length: int, *, base: BlockNode | None = None
    ) -> list[Extent]:
        """Return the extents of a range; see ``BlockNode.block_status``."""
        if self.quiesced:
            await self._wait_resumed()
        root = self._begin()
        try:
            return await root.block_status(offset, length, base=base)
        finally:
            self._end()
