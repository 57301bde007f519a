"""An edge of the graph, and who may stand at its upper end.

Invariants:

* A parent reaches a node only through a ``Child``; the graph alone changes where it leads.
* ``perm`` is what the parent does with the node, ``shared`` what it lets other parents do. A
  request without the permission for it is a programming error and fails an assertion.
* The forwarding methods are plain functions that return the node's coroutine: an edge costs no
  frame while a request is under way.

QEMU's counterpart: ``BdrvChild`` and ``BdrvChildClass``.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from blkxact.enums import BlkdebugEvent, PreallocMode
from blkxact.storage.api import Buffer, Payload, Runs

from .types import ChildRole, Extent, Permission, WriteFlags

if TYPE_CHECKING:
    from .node import BlockNode

NO_FLAGS = WriteFlags.NONE


class Parent:
    """Who holds an edge: a node, or a root (a backend, a job, an export).

    A root is where requests begin, so it is the roots that a drain stops.
    """

    stay_at_node: bool = False
    """The edge stays when the node is replaced (a job's hold on its nodes)."""

    is_backend: bool = False
    """A ``BlockBackend``: a node with one is in use by a device or an export."""

    iothread: str | None = None
    """The iothread that the parent has its nodes in, if that is not the main one."""

    device_name: str = ""
    """The name of the device that the parent is."""

    def parent_description(self) -> str:
        """Return how messages name the parent (``node 'x'``, ``block device 'y'``)."""
        return "an unnamed block device"

    def address_of(self, child: str) -> str:
        """Return how fault points address an unnamed node at the edge ``child``, or ""."""
        del child
        return ""

    def quiesce(self) -> None:
        """Start no new request until ``resume`` was called as often (roots only)."""

    def resume(self) -> None:
        """Take back one ``quiesce``."""

    def is_idle(self) -> bool:
        """Return whether no request of the parent's own is under way."""
        return True

    async def idle(self) -> None:
        """Wait until no request of the parent's own is under way."""

    def may_inactivate(self) -> bool | None:
        """Return whether it does without its masks while the node is inactive (roots only).

        None: it keeps them, so the node becomes inactive only if they do not allow writing.
        """
        return None

    def resized(self) -> None:
        """Learn that the node's length has changed."""


class Child:
    """One edge, from a parent to a node."""

    __slots__ = (
        "backing_reason",
        "frozen",
        "held_back",
        "masks",
        "may_resize",
        "may_write",
        "may_write_unchanged",
        "name",
        "node",
        "parent",
        "perm",
        "role",
        "shared",
    )

    def __init__(self, parent: Parent, node: BlockNode, name: str, role: ChildRole) -> None:
        self.parent = parent
        self.node = node
        self.name = name
        self.role = role
        self.frozen = False
        """A job relies on the link staying as it is."""
        self.backing_reason: str | None = None
        """The reason with which a backing link blocks operations on its node."""
        self.held_back: tuple[Permission, Permission] | None = None
        """The masks of a root that it gets again when its inactive node is activated."""
        self.set_permissions(Permission.NONE, Permission.ALL)

    def __repr__(self) -> str:
        return f"<Child '{self.name}' of {self.parent.parent_description()} -> {self.node!r}>"

    def set_permissions(self, perm: Permission, shared: Permission) -> None:
        """Change the masks; those of an entered edge change through its node's ``parents``."""
        self.perm = perm
        self.shared = shared
        self.masks = int(perm), int(shared)
        self.may_write = bool(perm & Permission.WRITE)
        self.may_write_unchanged = self.may_write or bool(perm & Permission.WRITE_UNCHANGED)
        self.may_resize = bool(perm & Permission.RESIZE)

    @property
    def length(self) -> int:
        """Length of the node, in bytes."""
        return self.node.length

    @property
    def wants_events(self) -> bool:
        """Whether ``debug_event`` would reach anyone, so that a driver can save the call."""
        return self.node.driver.has_debug_events

    def pread(self, offset: int, length: int) -> Coroutine[Any, Any, Buffer]:
        """Read; see ``BlockNode.pread``."""
        return self.node.pread(offset, length)

    def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = NO_FLAGS
    ) -> Coroutine[Any, Any, None]:
        """Write; see ``BlockNode.pwrite``."""
        assert self.may_write or self._may_unchanged(flags), self
        return self.node.pwrite(offset, payload, flags, grow=self.may_resize)

    def pwrite_runs(self, runs: Runs) -> Coroutine[Any, Any, None]:
        """Write several payloads; see ``BlockNode.pwrite_runs``."""
        # A copy-on-read writes what is there already.
        assert self.may_write_unchanged or not self.node.is_writable, self
        return self.node.pwrite_runs(runs, grow=self.may_resize)

    def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = NO_FLAGS
    ) -> Coroutine[Any, Any, None]:
        """Write zeroes; see ``BlockNode.pwrite_zeroes``."""
        assert self.may_write or self._may_unchanged(flags), self
        if flags & WriteFlags.MAY_UNMAP and not self.node.lets_unmap(self.parent):
            flags &= ~WriteFlags.MAY_UNMAP
        return self.node.pwrite_zeroes(offset, length, flags, grow=self.may_resize)

    def pdiscard(self, offset: int, length: int) -> Coroutine[Any, Any, None]:
        """Discard; see ``BlockNode.pdiscard``."""
        assert self.may_write or not self.node.is_writable, self
        return self.node.pdiscard(offset, length)

    def flush(self) -> Coroutine[Any, Any, None]:
        """Flush; see ``BlockNode.flush``."""
        return self.node.flush()

    def truncate(
        self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF
    ) -> Coroutine[Any, Any, None]:
        """Resize; see ``BlockNode.truncate``."""
        assert self.may_resize or not self.node.is_writable, self
        return self.node.truncate(length, prealloc=prealloc)

    def block_status(
        self,
        offset: int,
        length: int,
        *,
        base: BlockNode | None = None,
        bottom: BlockNode | None = None,
    ) -> Coroutine[Any, Any, list[Extent]]:
        """Map the node's whole chain; see ``BlockNode.block_status``."""
        return self.node.block_status(offset, length, base=base, bottom=bottom)

    async def debug_event(self, event: BlkdebugEvent) -> None:
        """Report a BlkdebugEvent to the node's driver, if it handles them."""
        driver = self.node.driver
        if driver.has_debug_events:
            await driver.debug_event(event)

    def _may_unchanged(self, flags: WriteFlags) -> bool:
        """Return whether a write without WRITE may go on: the bytes stay, or it is refused."""
        if flags & WriteFlags.UNCHANGED:
            return self.may_write_unchanged
        return not self.node.is_writable
