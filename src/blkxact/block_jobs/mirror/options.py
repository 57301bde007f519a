"""What a mirror is to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from blkxact.block.node import BlockNode
from blkxact.enums import BlockdevOnError


class BackingMode(Enum):
    """BlockMirrorBackingMode: what becomes of the target's backing file in the end."""

    SOURCE_CHAIN = auto()
    """It gets the one that it was made for: the source's, or the source itself (sync none)."""
    OPEN_CHAIN = auto()
    """The one that its header names is opened."""
    LEAVE = auto()


@dataclass(frozen=True, slots=True)
class MirrorOptions:
    """What a mirror is to do. Sizes are in bytes, ``speed`` in bytes a second; 0 means no limit.

    ``none``: only what is written from now on is copied (sync none). ``base``: what it and the
    layers below it hold is not copied. ``zero_target``: the target holds something, and what is
    not copied has to read as zeroes. ``auto_complete``: the job ends once it is ready. ``replaces``
    names the node that the target takes the place of; None: the source.
    """

    granularity: int
    buf_size: int
    none: bool = False
    base: BlockNode | None = None
    backing_mode: BackingMode = BackingMode.LEAVE
    zero_target: bool = False
    replaces: str | None = None
    unmap: bool = True
    write_blocking: bool = False
    auto_complete: bool = False
    filter_node_name: str | None = None
    speed: int = 0
    on_source_error: BlockdevOnError = BlockdevOnError.REPORT
    on_target_error: BlockdevOnError = BlockdevOnError.REPORT
    auto_finalize: bool = True
    auto_dismiss: bool = True
