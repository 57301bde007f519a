"""copy-on-read: a filter that copies what is read from backing files into the image below it.

With ``bottom`` only what the layers down to that image hold is copied, and the chain down to it is
frozen. A stream job puts such a filter above the image that it fills.

QEMU's counterpart: ``block/copy-on-read.c``; ``qapi/block-core.json`` (BlockdevOptionsCor).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from blkxact.block.chain import skip_filters
from blkxact.block.copy_on_read import is_below, is_not_own, populate
from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Permission
from blkxact.errors import QmpError
from blkxact.storage.api import Buffer

from .filter import FilterDriver

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.block.node import BlockNode
    from blkxact.qapi.blockdev import BlockdevOptionsCor

_PASSED_ON = Permission.CONSISTENT_READ | Permission.WRITE | Permission.RESIZE


class CopyOnReadDriver(FilterDriver):
    """The driver ``copy-on-read`` over ``file``."""

    format_name = "copy-on-read"
    can_compress = True
    filename = ""
    sees_reads = True

    def __init__(
        self, context: OpenContext, children: Mapping[str, Child], bottom: BlockNode | None
    ) -> None:
        super().__init__(context, children)
        self._bottom = bottom
        self._frozen = False
        skip_filters(self.file.node).serialise_writes()
        if bottom is not None:
            context.env.graph.freeze_chain(self._node, bottom)
            context.env.graph.ref(bottom)
            self._frozen = True

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsCor, children: Mapping[str, Child]
    ) -> CopyOnReadDriver:
        """Open with ``bottom``, the name of the lowest node from which is copied."""
        name = options.bottom
        if name is None:
            return cls(context, children, None)
        graph = context.env.graph
        bottom = graph.find(name) or graph.unlisted.get(name)  # it may be opened with this node
        if bottom is None:
            raise QmpError(f"Bottom node '{name}' not found")
        if not bottom.is_open:
            raise QmpError(f"Bottom node '{name}' not opened")
        if bottom.driver.is_filter:
            raise QmpError(f"Bottom node '{name}' is a filter")
        return cls(context, children, bottom)

    async def close(self) -> None:
        """Let the chain change again."""
        self.unfreeze()
        if self._bottom is not None:
            if self._bottom.refs:  # at the end of the emulator all have been let go already
                self.context.env.graph.unref(self._bottom)
            self._bottom = None

    def unfreeze(self) -> None:
        """Let the chain change again, so that the filter can be taken out."""
        if self._frozen:
            assert self._bottom is not None
            self.context.env.graph.unfreeze_chain(self._node, self._bottom)
            self._frozen = False

    @property
    def _node(self) -> BlockNode:
        return cast("BlockNode", self.file.parent)

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Return the masks: copies change nothing that is read, so they need no WRITE."""
        del child, role
        copies = Permission.NONE if self.inactive else Permission.WRITE_UNCHANGED
        return perm & _PASSED_ON | copies, shared & _PASSED_ON | Permission.WRITE_UNCHANGED

    @classmethod
    def permissions_to_open(cls, role: ChildRole) -> tuple[Permission, Permission]:
        """Return the same, as long as there are no parents."""
        del role
        return Permission.WRITE_UNCHANGED, _PASSED_ON | Permission.WRITE_UNCHANGED

    async def pread(self, offset: int, length: int) -> Buffer:
        """Copy what is to be copied of the range, then read."""
        if self.inactive:
            return await super().pread(offset, length)
        node = skip_filters(self.file.node)
        wanted = is_below if self._bottom is not None else is_not_own
        for extent in await node.block_status(offset, length, bottom=self._bottom):
            if wanted(extent):
                await populate(node, extent.offset, extent.length, wanted, self._bottom)
        return await super().pread(offset, length)
