"""The contract between a node and the driver that serves it.

Invariants:

* Offsets and lengths are bytes. A node calls its driver only with ranges inside ``[0, length)``.
* A failed request raises ``OSError`` with its errno; a failed open raises ``QmpError``.
* A driver reaches its children only through ``Child``, so it need not know of a graph change.
* ``pwrite`` takes a ``Payload``. A driver that does not look at the bytes passes it on unseen, so a
  range of a file travels through filters and formats down to one ``copy_file_range``.
* ``block_status`` reports where bytes are stored. An extent with a ``file`` may be read there by
  anyone as long as the caller keeps writes away; a driver that must see reads (blkdebug, throttle)
  leaves ``file`` out.

QEMU's counterpart: ``include/block/block_int-common.h`` (BlockDriver).
"""

# ruff: noqa: B027 - a driver overrides only what it can do; the default is to do nothing

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from blkxact.enums import BlkdebugEvent, PreallocMode
from blkxact.errors import QmpError, os_error
from blkxact.storage.api import Buffer, Payload, Runs

from .open_context import OpenContext
from .permissions import role_permissions
from .types import ChildRole, Extent, Permission, SnapshotAccess, WriteFlags

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap

    from .child import Child
    from .internal_snapshots import InternalSnapshots
    from .node import BlockNode


class BlockDriver(ABC):
    """One open image. Subclasses are listed in ``drivers.DRIVERS``."""

    format_name: ClassVar[str]
    """BlockdevDriver."""
    is_filter: ClassVar[bool] = False
    passes_flushes_on: ClassVar[bool] = False
    """A flush of this filter, the one at its end too, is a flush of the node below, even where no
    parent writes through it (a filter with ``bdrv_co_flush`` in QEMU)."""
    is_protocol: ClassVar[bool] = False
    supports_backing: ClassVar[bool] = False
    child_list: ClassVar[str] = ""
    """The option that lists children, whose edges are named ``LIST.0``, ``LIST.1``, ..."""
    opens_plain_names: ClassVar[bool] = False
    """It opens images by a name alone, and takes absent options for None then."""
    has_debug_events: ClassVar[bool] = False
    can_compress: ClassVar[bool] = False
    """The driver takes compressed writes, or passes them on to one that may."""
    sees_reads: ClassVar[bool] = False
    """Reads must pass through this driver (blkdebug, throttle): no extent below it has ``file``."""

    supports_fua: bool = False
    """Writes and zeroes with ``WriteFlags.FUA`` are durable without a flush."""
    unmaps_zeroes: bool = False
    """Zeroes with ``WriteFlags.MAY_UNMAP`` take no space and little time."""
    holds_new_images: ClassVar[bool] = False
    """A protocol that cannot create anything, but in which an image can be created."""
    is_identity_mapped: ClassVar[bool] = False
    """A byte of the disk is at the same offset of what the filename names."""
    length: int
    """Size of the virtual disk, in bytes. A node rounds it up to whole sectors."""
    request_alignment: int = 1
    own_limits: Mapping[str, int] = MappingProxyType({})
    """What of BlockLimitsInfo is not that of the children."""
    cluster_size: int | None = None
    """Unit of allocation, if there is one (BlockDriverInfo)."""
    subcluster_size: int | None = None
    """Unit in which clusters are filled: a cluster, unless the image has subclusters."""
    dirty_flag: bool | None = None
    """Whether the image needs a repair (BlockDriverInfo); None: the format does not record it."""
    specific_stats: dict[str, int] | None = None
    """Counters of BlockStatsSpecific, if the driver has any."""
    read_only: bool = False
    """Whether writes are refused now; the context's value to begin with, changed by a reopen."""
    inactive: bool = False
    """Another process may have the image: nothing is written (``blockdev-set-active``)."""
    filename: str | None = None
    """The short name by which the same image could be opened; "" if there is none.

    None: it is that of the child, where opening it would give this node (``node_filename``), and of
    what a filter filters.
    """
    strong_options: ClassVar[frozenset[str]] = frozenset()
    """Options that change what the image holds, so that a child's short name says too little."""
    reopenable: ClassVar[frozenset[str] | None] = None
    """The driver's own options that a reopen can change, by flat names; the others must stay.

    None: it cannot be reopened.
    """
    resettable: ClassVar[frozenset[str]] = frozenset()
    """Those that a reopen may leave out: they get their default values."""
    backing_file: str = ""
    """The backing file that the image's header names, as it is written there."""
    backing_format: str | None = None
    """The format that the header names for it; None: it is probed."""
    internal_snapshots: InternalSnapshots | None = None
    """The snapshots that the image keeps of itself, where the format can."""
    point_in_time: SnapshotAccess | None = None
    """The point in time that a filter keeps, for ``snapshot-access``."""

    def __init__(self, context: OpenContext, children: Mapping[str, Child]) -> None:
        self.context = context
        self.children = children
        self.read_only = context.read_only
        self.inactive = context.inactive

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return the children that ``options`` must define, but for ``backing``, and their roles.

        ``options`` are as for ``open``, but may not be validated yet.

        The default: none for a protocol, an image's ``file`` for a format. A filter, and a driver
        with further children, overrides it.
        """
        del options
        if cls.is_protocol:
            return {}
        return {"file": ChildRole.IMAGE}

    @classmethod
    async def named_children(
        cls, children: Mapping[str, Child]
    ) -> Mapping[str, tuple[ChildRole, str]]:
        """Return role and filename of further children that the image itself names.

        Called when those that the options define are attached; one of them goes before a named
        one. Raises ``QmpError``.
        """
        del children
        return {}

    @classmethod
    def parse_filename(cls, filename: str) -> dict[str, Any]:
        """Return the BlockdevOptions that ``PROTOCOL:...`` stands for; raises ``QmpError``.

        Called for the names that ``drivers.PROTOCOLS`` gives to this driver.
        """
        raise NotImplementedError(filename)

    @classmethod
    def schema_options(cls, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return members from a name or a command line as the schema has them.

        What only such members can have is taken care of: older spellings, and the refusal of what
        the schema would refuse in other words. Raises ``QmpError``.
        """
        return members

    @classmethod
    @abstractmethod
    async def open(
        cls, context: OpenContext, options: Any, children: Mapping[str, Child]
    ) -> BlockDriver:
        """Open an image.

        ``options`` is the driver's BlockdevOptions model, validated, with the schema's defaults (or
        ``PlainOptions``, see ``opens_plain_names``). Children that are defined in it are open:
        ``children`` is the live mapping of the node. ``backing`` is added after ``open``, when
        ``backing_file`` is known from the image.

        Raises ``QmpError`` in QEMU's words, or ``OSError``, which becomes "Could not open ...".
        Nothing stays open after a failure.
        """

    async def close(self) -> None:
        """Write back what is cached and release everything; must not raise ``QmpError``."""

    def refresh_limits(self) -> None:
        """Take over what depends on the children (``request_alignment``, ``cluster_size``)."""

    def prepare_reopen(self, context: OpenContext, options: Any) -> Callable[[], None]:
        """Check other values of ``reopenable`` options; return what takes them.

        ``options`` are as for ``open``. The node is drained. Raises ``QmpError``; changes nothing
        yet.
        """
        del options
        return partial(self.take_context, context)

    def take_context(self, context: OpenContext) -> None:
        """Work by other options of every node from now on (``discard``, ``no_flush``, ...)."""
        self.context = context

    async def activate_write(self) -> None:
        """Become writable (reopen); raises ``QmpError`` when that cannot be.

        The node sets ``read_only`` before; all its requests are drained. Bitmaps that the image
        keeps are marked on disk as in use.
        """

    async def deactivate_write(self) -> None:
        """Write back what is cached and become read-only (reopen); the node sets ``read_only``."""

    async def invalidate_cache(self) -> None:
        """Read again what others may have changed while the node was inactive (``QmpError``).

        The children have done so, and ``inactive`` is no longer set. After a failure the driver
        must still be able to read.
        """

    @abstractmethod
    async def pread(self, offset: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes."""

    @abstractmethod
    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write the payload. Without ``supports_fua`` the node handles ``FUA`` with a flush.

        A parent with ``Permission.RESIZE`` may write beyond the end, and the image grows.
        """

    async def pwrite_runs(self, runs: Runs) -> None:
        """Write several payloads at their offsets; they are in order and do not overlap.

        When it fails, any of them may have been written. A driver that can share work between
        them overrides this, and must leave on the image what the single writes would.
        """
        for offset, payload in runs:
            await self.pwrite(offset, payload)

    @abstractmethod
    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Make the range read as zeroes.

        ``OSError(ENOTSUP)`` makes the node write zeroes instead, unless ``NO_FALLBACK`` is set.
        """

    async def pdiscard(self, offset: int, length: int) -> None:
        """Forget the range, if that is possible and wanted."""

    @abstractmethod
    async def flush(self) -> None:
        """Write back caches and make what was written durable, the children included.

        The node calls it only when something was written since the last flush.
        """

    @abstractmethod
    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return extents of this layer that cover the range in order, neighbours merged.

        A run that the backing file decides, or the child that a filter filters, has
        ``Status.NONE``: the node asks there.
        """

    async def block_status_of(self, ranges: Sequence[tuple[int, int]]) -> list[Extent]:
        """Return the extents of several ranges ``(offset, length)``, which are in order.

        Of several, extents with ``Status.NONE`` may be left out. A driver that finds them faster
        together overrides this.
        """
        found: list[Extent] = []
        for offset, length in ranges:
            found += await self.block_status(offset, length)
        return found

    async def load_bitmaps(self, taken: Container[str] = ()) -> list[DirtyBitmap]:
        """Return the bitmaps that the image keeps, once it is open; raises ``QmpError``.

        None may have a name that is ``taken``. Those of a writable image are marked on disk as in
        use.
        """
        del taken
        return []

    async def remove_persistent_bitmap(self, name: str) -> None:
        """Remove a stored bitmap from the image; one that is not there is no error."""

    async def store_bitmaps(self, bitmaps: list[DirtyBitmap], *, closing: bool = False) -> None:
        """Keep persistent bitmaps in the image, no longer in use; raises ``QmpError``.

        Called before ``close`` and ``deactivate_write``. After a failure all are still in use;
        with ``closing``, after which nothing is written, only those that could not be kept.
        """

    async def set_backing_file(self, name: str | None, fmt: str | None) -> None:
        """Write another backing file's name and format into the image; raises ``OSError``."""
        del name, fmt
        raise os_error(errno.ENOTSUP)

    async def make_empty(self) -> None:
        """Forget all that this layer holds, so that it reads as its backing file (``OSError``)."""
        raise os_error(errno.ENOTSUP)

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Change the size of the disk; raises ``QmpError`` when that cannot be."""
        del length, prealloc
        raise QmpError("Image format driver does not support resize")

    def allocated_size(self) -> int | None:
        """Return ``actual-size`` of ``query-block``, if this driver knows it itself."""
        return None

    def image_specific(self) -> dict[str, Any] | None:
        """Return ``format-specific`` of ImageInfo."""
        return None

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Return ``(perm, shared)`` that this driver needs on ``child``.

        ``perm`` and ``shared`` are what this node's own parents need and allow together. The
        default is that of QEMU's ``bdrv_default_perms``.
        """
        del child
        writable = not self.read_only and not self.inactive
        return role_permissions(role, perm, shared, writable=writable, inactive=self.inactive)

    @classmethod
    def permissions_to_open(cls, role: ChildRole) -> tuple[Permission, Permission] | None:
        """Return what ``child_permissions`` of a new node will; None: what the role says."""
        del role
        return None

    @property
    def supports_compressed_writes(self) -> bool:
        """Whether this driver takes compressed writes, and those that it passes them on to do."""
        return self.can_compress

    def new_child_name(self) -> str:
        """Return the name of the edge to a further child (x-blockdev-change); raises ``QmpError``.

        ``child_removed`` takes it back.
        """
        raise self._unsupported_change("adding")

    def check_removal(self) -> None:
        """Raise ``QmpError`` if no child can be taken away (x-blockdev-change)."""
        raise self._unsupported_change("removing")

    def child_removed(self, name: str) -> None:
        """Note that there is no edge of this name any more."""

    def _unsupported_change(self, change: str) -> QmpError:
        node = self.context.env.graph.lookup(None, self.context.node_name)
        return QmpError(f"The node {node.device_or_node_name} does not support {change} a child")

    def may_replace_child(self, node: BlockNode) -> bool:
        """Return whether ``node``, a child, may be replaced by a copy of this node."""
        del node
        return False

    def apply_permissions(self, perm: Permission, shared: Permission) -> None:
        """Take and share what all parents of the node together need and allow (file locks).

        Called with a wider ``perm`` and a narrower ``shared`` first; then, when the change of the
        graph stands or is undone, with what remains, which only lets go and must not fail. Raises
        ``QmpError`` and has changed nothing then.
        """

    def drain_begin(self) -> None:
        """Release requests that the driver delays (throttling): a drain waits for them."""

    def drain_end(self) -> None:
        """End what ``drain_begin`` began; pairs are counted by the driver."""

    def cancel_in_flight(self) -> None:
        """Fail requests that wait for a lost server: their job is cancelled.

        The default passes it on to the children that hold the data.
        """
        for child in self.children.values():
            if not child.role & ChildRole.COW:
                child.node.driver.cancel_in_flight()

    async def debug_event(self, event: BlkdebugEvent) -> None:
        """Take a BlkdebugEvent; only a driver with ``has_debug_events`` is called."""
