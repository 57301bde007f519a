"""What a qemu-io command works with."""

from __future__ import annotations

import errno
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from blkxact.drivers.blkdebug import BlkdebugDriver

from .io_text import IoRefusal

if TYPE_CHECKING:
    from blkxact.block.backend import BlockBackend
    from blkxact.block.node import BlockNode

    from .host import Context

T = TypeVar("T")


class IoSession:
    """One command on one backend; ``command`` is the word it was called by."""

    def __init__(self, context: Context, backend: BlockBackend, command: str) -> None:
        self.context = context
        self.backend = backend
        self.command = command

    @property
    def node(self) -> BlockNode:
        """The medium; raises ``IoRefusal`` without one."""
        node = self.backend.node
        if node is None:
            raise IoRefusal(f"{os.strerror(errno.ENOMEDIUM)}\n")
        return node

    def print(self, text: str) -> None:
        """Print."""
        self.context.print(text)

    def complain(self, text: str) -> None:
        """Print an error."""
        self.context.complain(text)

    def now(self) -> float:
        """Return seconds on the emulator's clock."""
        return self.context.layer.clock.monotonic()

    async def wait(self, request: Coroutine[Any, Any, T]) -> T:
        """Wait for a request without holding up other sessions."""
        return await self.context.wait(request)


def blkdebug_below(node: BlockNode | None) -> list[BlkdebugDriver]:
    """Return all blkdebug drivers that a request on ``node`` may pass."""
    found, todo = [], [node] if node else []
    for here in todo:
        if isinstance(here.driver, BlkdebugDriver):
            found.append(here.driver)
        todo += [child.node for child in here.children.values() if child.node not in todo]
    return found


def breakpoint_driver(node: BlockNode | None) -> BlkdebugDriver | None:
    """Return the first blkdebug driver along the primary children."""
    while node is not None and not isinstance(node.driver, BlkdebugDriver):
        node = node.primary
    return node.driver if node is not None else None  # type: ignore[return-value]
