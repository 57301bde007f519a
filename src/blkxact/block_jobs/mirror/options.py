"""What a mirror is to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from blkxact.block.node import BlockNode
from blkxact.job.block_job import BlockJobOptions


class BackingMode(Enum):
    """BlockMirrorBackingMode: what becomes of the target's backing file at the end."""

    SOURCE_CHAIN = auto()
    """It gets the one that it was made for: the source's, or the source itself (sync none)."""
    OPEN_CHAIN = auto()
    """The one that its header names is opened."""
    LEAVE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions(BlockJobOptions):
    """What a mirror is to do. Sizes are in bytes.

    ``none``: only what is written from now on is copied (sync none). ``base``: what it and the
    layers below it hold is not copied; if it was read-only before, it is again after a failure
    (since 9.1). ``full``: what is not copied has to read as zeroes in the
    target. ``target_is_zero``: all of the target does. ``auto_complete``: the job ends once it is
    ready. ``replaces`` names the node that the target takes the place of; None: the source.
    """

    granularity: int
    buf_size: int
    none: bool = False
    base: BlockNode | None = None
    base_was_read_only: bool = False
    backing_mode: BackingMode = BackingMode.LEAVE
    full: bool = False
    target_is_zero: bool = False
    replaces: str | None = None
    unmap: bool = True
    write_blocking: bool = False
    auto_complete: bool = False
