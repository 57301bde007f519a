"""How the jobs of one transaction depend on each other: one policy for each completion mode.

This table is the only place that says what a mode means; everybody else asks ``txn.policy``.

QEMU's counterpart: ActionCompletionMode in ``qapi/transaction.json``; ``deferred`` is the mode of
the 2015 series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from blkxact.enums import ActionCompletionMode


@dataclass(frozen=True, slots=True)
class CompletionPolicy:
    """What a completion mode means."""

    concludes_as_group: bool
    """The first failure cancels the other jobs, and none concludes before all can."""
    bitmaps_wait_for_all: bool
    """Bitmaps settle with the last reference, by the result of the whole; else with their job."""
    needs_jobs: bool
    """An action that starts no job refuses the mode, as in QEMU."""


POLICIES: Final[Mapping[ActionCompletionMode, CompletionPolicy]] = MappingProxyType(
    {
        ActionCompletionMode.INDIVIDUAL: CompletionPolicy(
            concludes_as_group=False, bitmaps_wait_for_all=False, needs_jobs=False
        ),
        ActionCompletionMode.GROUPED: CompletionPolicy(
            concludes_as_group=True, bitmaps_wait_for_all=False, needs_jobs=True
        ),
        ActionCompletionMode.DEFERRED: CompletionPolicy(
            concludes_as_group=False, bitmaps_wait_for_all=True, needs_jobs=False
        ),
    }
)
