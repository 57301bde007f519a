"""Options of the jobs that shorten a backing chain."""

from __future__ import annotations

from dataclasses import dataclass

from blkxact.job.block_job import BlockJobOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainJobOptions(BlockJobOptions):
    """The members of block-commit and block-stream that the job itself looks at."""

    backing_file: str | None = None
    """What overlays name as their backing file afterwards; None: the name of the base."""
    mask_protocol: bool = False
    """Overlays name the format of a base that is a protocol ``raw``."""
