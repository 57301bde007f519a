"""throttle: a filter whose requests keep to the limits of a throttle group.

Invariants:

* Every read must be seen, so no extent below reports where its bytes are stored (``sees_reads``).
* In a drained section nothing is held: whoever drains waits for the requests.

QEMU's counterpart: ``block/throttle.c``; ``qapi/block-core.json`` (BlockdevOptionsThrottle).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from blkxact.block.open_context import OpenContext
from blkxact.block.types import WriteFlags
from blkxact.errors import QmpError
from blkxact.runtime.throttle.group import ThrottleMember
from blkxact.storage.api import Buffer, Payload

from .filter import FilterDriver

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsThrottle


class ThrottleDriver(FilterDriver):
    """The driver ``throttle`` over its child ``file``."""

    format_name = "throttle"
    can_compress = True
    passes_flushes_on = True
    sees_reads = True
    strong_options = frozenset({"throttle-group"})
    reopenable = frozenset({"throttle-group"})
    filename = ""

    def __init__(
        self,
        context: OpenContext,
        children: Mapping[str, Child],
        member: ThrottleMember,
    ) -> None:
        super().__init__(context, children)
        self.member = member
        self._drains = 0

    @classmethod
    def schema_options(cls, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raise ``QmpError`` without a group."""
        if "throttle-group" not in members:
            raise QmpError("Please specify a throttle group")
        return members

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsThrottle, children: Mapping[str, Child]
    ) -> ThrottleDriver:
        """Open; raises ``QmpError`` without a group that exists."""
        return cls(context, children, _join(context, options.throttle_group))

    async def close(self) -> None:
        """Leave the group."""
        self.member.leave()

    def prepare_reopen(
        self, context: OpenContext, options: BlockdevOptionsThrottle
    ) -> Callable[[], None]:
        """Check that the group exists."""
        name = _check_group(context, options.throttle_group)
        take = super().prepare_reopen(context, options)

        def change_group() -> None:
            take()
            if name != self.member.group.name:
                old, self.member = self.member, _join(context, name)
                for _ in range(self._drains):
                    self.member.disable()
                old.leave()

        return change_group

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read."""
        await self.member.admit(length, is_write=False)
        return await super().pread(offset, length)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write."""
        await self.member.admit(len(payload), is_write=True)
        await super().pwrite(offset, payload, flags)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes; they count as the bytes that they stand for."""
        await self.member.admit(length, is_write=True)
        await super().pwrite_zeroes(offset, length, flags)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard; that counts as a write."""
        await self.member.admit(length, is_write=True)
        await super().pdiscard(offset, length)

    def drain_begin(self) -> None:
        """Let go what is held."""
        self._drains += 1
        self.member.disable()

    def drain_end(self) -> None:
        """Hold again."""
        self._drains -= 1
        self.member.enable()


def _check_group(context: OpenContext, name: str) -> str:
    """Return the name of a group that exists; raises ``QmpError``."""
    if context.env.throttle_groups.find(name) is None:
        raise QmpError(f"Throttle group '{name}' does not exist")
    return name


def _join(context: OpenContext, name: str) -> ThrottleMember:
    """Return a place in the group of that name; raises ``QmpError`` if there is none."""
    return context.env.throttle_groups.join(_check_group(context, name))
