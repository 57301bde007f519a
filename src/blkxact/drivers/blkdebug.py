"""blkdebug: a filter that fails, delays, suspends and splits requests on purpose.

Rules listen to events (BLKDBG_*), which formats send as they go through their steps. An event may
arm errors for the requests that follow, move the driver to another state, or suspend the request
that sent it until a person resumes it.

Invariants:

* An event that arms errors replaces all errors that were armed before; one that arms none leaves
  them.
* Among armed errors the first in the order of the options wins.
* Every read must be seen, so no extent below reports where its bytes are stored (``sees_reads``).

QEMU's counterpart: ``block/blkdebug.c``; ``qapi/block-core.json`` (BlockdevOptionsBlkdebug).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blkxact.block.driver_api import BlockDriver
from blkxact.block.node_filename import short_filename
from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole, Extent, Permission, Status, WriteFlags
from blkxact.enums import BlkdebugEvent, BlkdebugIOType, BlockPermission, PreallocMode
from blkxact.errors import QmpError, os_error
from blkxact.storage.api import Buffer, Payload, payload_slice

from .blkdebug_rules import Rules, check_section, read_rules

if TYPE_CHECKING:
    from blkxact.block.child import Child
    from blkxact.qapi.blockdev import BlockdevOptionsBlkdebug

INT_MAX = (1 << 31) - 1

PERMISSIONS: Mapping[str, Permission] = {
    BlockPermission.CONSISTENT_READ: Permission.CONSISTENT_READ,
    BlockPermission.WRITE: Permission.WRITE,
    BlockPermission.WRITE_UNCHANGED: Permission.WRITE_UNCHANGED,
    BlockPermission.RESIZE: Permission.RESIZE,
}
"""BlockPermission."""


STRONG_OPTIONS = frozenset(
    {
        "config",
        "inject-error",
        "set-state",
        "align",
        "max-transfer",
        "opt-write-zero",
        "max-write-zero",
        "opt-discard",
        "max-discard",
    }
)
"""Options that make the node another than its image."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes that requests are cut to; 0 leaves a thing as it is."""

    align: int = 0
    max_transfer: int = 0
    opt_write_zero: int = 0
    max_write_zero: int = 0
    opt_discard: int = 0
    max_discard: int = 0

    @classmethod
    def parse(cls, options: BlockdevOptionsBlkdebug, file_alignment: int) -> Limits:
        """Take the limits from the driver's options; raises ``QmpError`` in QEMU's words."""
        align = options.align or 0
        if align and (align < 0 or align >= INT_MAX or align & (align - 1)):
            raise _cannot_meet("align", align)
        unit = max(align, file_alignment)
        zero_unit = options.opt_write_zero or unit
        discard_unit = options.opt_discard or unit
        return cls(
            align,
            _limit("max-transfer", options.max_transfer, unit),
            _limit("opt-write-zero", options.opt_write_zero, unit),
            _limit("max-write-zero", options.max_write_zero, max(zero_unit, unit)),
            _limit("opt-discard", options.opt_discard, unit),
            _limit("max-discard", options.max_discard, max(discard_unit, unit)),
        )

    def info(self) -> dict[str, int]:
        """Return them as BlockLimitsInfo has them; those that are 0 are not given."""
        names = {
            "request-alignment": self.align,
            "max-transfer": self.max_transfer,
            "write-zeroes-alignment": self.opt_write_zero,
            "max-write-zeroes": self.max_write_zero,
            "discard-alignment": self.opt_discard,
            "max-discard": self.max_discard,
        }
        return {name: value for name, value in names.items() if value}


def _limit(name: str, given: int | None, unit: int) -> int:
    value = given or 0
    if value < 0 or value >= INT_MAX or value % unit:
        raise _cannot_meet(name, value)
    return value


def _cannot_meet(name: str, value: int) -> QmpError:
    # QEMU reads the option as an unsigned number.
    return QmpError(f"Cannot meet constraints with {name} {value % (1 << 64)}")


class BlkdebugDriver(BlockDriver):
    """The driver ``blkdebug`` over its child ``image``."""

    format_name = "blkdebug"
    is_filter = True
    is_protocol = True
    has_debug_events = True
    sees_reads = True
    strong_options = STRONG_OPTIONS
    reopenable = frozenset()

    def __init__(
        self,
        context: OpenContext,
        children: Mapping[str, Child],
        rules: Rules,
        limits: Limits,
    ) -> None:
        super().__init__(context, children)
        self.rules = rules
        self.limits = limits
        self.own_limits = limits.info()
        self.image = children["image"]
        self.request_alignment = limits.align or self.image.node.driver.request_alignment
        self.take_child_perms = Permission.NONE
        self.unshare_child_perms = Permission.NONE
        self.config = ""
        """The file that the rules were read from."""
        self.names_its_image = False
        """No option but ``config`` matters, so that a filename can say it all."""

    @classmethod
    def child_roles(cls, options: Any) -> Mapping[str, ChildRole]:
        """Return the one child, ``image``."""
        del options
        return {"image": ChildRole.FILTERED | ChildRole.PRIMARY}

    @classmethod
    def parse_filename(cls, filename: str) -> dict[str, Any]:
        """Return the options that ``blkdebug:[CONFIG]:IMAGE`` stands for; raises ``QmpError``."""
        config, colon, image = filename.removeprefix("blkdebug:").partition(":")
        if not colon:
            raise QmpError("blkdebug requires both config file and image path")
        options: dict[str, Any] = {"driver": "blkdebug", "image": {"filename": image}}
        return options | {"config": config} if config else options

    @classmethod
    def schema_options(cls, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raise ``QmpError`` for rules with events or types of requests that are none."""
        for section in (*members.get("inject-error", ()), *members.get("set-state", ())):
            if isinstance(section, Mapping):
                check_section(section)
        return members

    @property
    def filename(self) -> str:  # type: ignore[override]
        """``blkdebug:CONFIG:IMAGE`` where that says it all (refresh_filename)."""
        image = short_filename(self.image.node) if self.names_its_image else ""
        return f"blkdebug:{self.config}:{image}" if image else ""

    @classmethod
    async def open(
        cls, context: OpenContext, options: BlockdevOptionsBlkdebug, children: Mapping[str, Child]
    ) -> BlkdebugDriver:
        """Open; raises ``QmpError`` for rules or limits that QEMU refuses."""
        rules = await read_rules(context.env, options)
        limits = Limits.parse(options, children["image"].node.driver.request_alignment)
        driver = cls(context, children, rules, limits)
        driver.take_child_perms = _permissions(options.take_child_perms)
        driver.unshare_child_perms = _permissions(options.unshare_child_perms)
        driver.names_its_image = not (STRONG_OPTIONS - {"config"}) & options.to_wire().keys()
        driver.config = options.config or ""
        await driver.debug_event(BlkdebugEvent.NONE)
        return driver

    @property
    def length(self) -> int:  # type: ignore[override]
        """Size of the child."""
        return self.image.length

    @property
    def cluster_size(self) -> int | None:  # type: ignore[override]
        """That of the child."""
        return self.image.node.driver.cluster_size

    def child_permissions(
        self, child: str, role: ChildRole, perm: Permission, shared: Permission
    ) -> tuple[Permission, Permission]:
        """Add and withhold what the options say."""
        perm, shared = super().child_permissions(child, role, perm, shared)
        return perm | self.take_child_perms, shared & ~self.unshare_child_perms

    # Requests.

    async def pread(self, offset: int, length: int) -> Buffer:
        """Read, unless an error is armed for it."""
        pieces = []
        for start, count in cut(offset, length, self.limits.max_transfer):
            await self._check(BlkdebugIOType.READ, start, count)
            pieces.append(await self.image.pread(start, count))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def pwrite(
        self, offset: int, payload: Payload, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write, unless an error is armed for it."""
        for start, count in cut(offset, len(payload), self.limits.max_transfer):
            await self._check(BlkdebugIOType.WRITE, start, count)
            begin = start - offset
            await self.image.pwrite(start, payload_slice(payload, begin, begin + count), flags)

    async def pwrite_zeroes(
        self, offset: int, length: int, flags: WriteFlags = WriteFlags.NONE
    ) -> None:
        """Write zeroes; what is smaller than ``opt-write-zero`` is written as plain bytes."""
        unit = max(self.request_alignment, self.limits.opt_write_zero)
        for start, count in cut_aligned(offset, length, unit, self.limits.max_write_zero):
            if start % unit == 0 and count % unit == 0:
                await self._check(BlkdebugIOType.WRITE_ZEROES, start, count)
                await self.image.pwrite_zeroes(start, count, flags)
            elif flags & WriteFlags.NO_FALLBACK:
                raise os_error(errno.ENOTSUP)
            else:
                await self.pwrite(start, bytes(count), flags & ~WriteFlags.MAY_UNMAP)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard; a piece smaller than a request may be is left out."""
        unit = max(self.limits.opt_discard, 1)
        for start, count in cut_aligned(offset, length, unit, self.limits.max_discard):
            if count >= self.request_alignment:
                await self._check(BlkdebugIOType.DISCARD, start, count)
                await self.image.pdiscard(start, count)

    async def flush(self) -> None:
        """Flush, unless an error is armed for it."""
        await self._check(BlkdebugIOType.FLUSH, 0, 0)
        await self.image.flush()

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Leave it to the child to know, unless an error is armed."""
        await self._check(BlkdebugIOType.BLOCK_STATUS, offset, length)
        return [Extent(offset, length, Status.NONE)]

    async def truncate(self, length: int, *, prealloc: PreallocMode = PreallocMode.OFF) -> None:
        """Resize the child."""
        await self.image.truncate(length, prealloc=prealloc)

    async def _check(self, iotype: BlkdebugIOType, offset: int, length: int) -> None:
        """Raise the error that is armed for a request, if there is one."""
        for points in (self.context.env.graph.points, self.rules.points):
            if points.listening:
                await points.reach(
                    f"blkdebug.{iotype}", node=self.context.node_name, offset=offset, length=length
                )

    # Events and breakpoints.

    async def debug_event(self, event: BlkdebugEvent) -> None:
        """Let the rules act; return when the request that sent the event may go on."""
        for points in (self.context.env.graph.points, self.rules.points):
            if points.listening:
                await points.reach(f"node.{event}", node=self.context.node_name)


def cut(offset: int, length: int, most: int) -> Iterator[tuple[int, int]]:
    """Split a request into pieces of at most ``most`` bytes (0: one piece)."""
    most = most or length
    for start in range(offset, offset + length, most or 1):
        yield start, min(most, offset + length - start)


def cut_aligned(offset: int, length: int, unit: int, most: int) -> Iterator[tuple[int, int]]:
    """Split off what lies before and after whole units, and the rest by ``most``."""
    end = offset + length
    first = min(-(-offset // unit) * unit, end)
    last = max(end // unit * unit, first)
    if first > offset:
        yield offset, first - offset
    yield from cut(first, last - first, most)
    if end > last:
        yield last, end - last


def _permissions(names: Sequence[str] | None) -> Permission:
    perm = Permission.NONE
    for name in names or ():
        perm |= PERMISSIONS[name]
    return perm
