"""The disks of the demo, their backups, and what the guest writes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blkxact.cli.image_create import create_image
from blkxact.image_tools.open_images import image_facts

KIB: Final = 1024
MIB: Final = 1024 * KIB

DISK_SIZES: Final = (256 * MIB, 192 * MIB)
"""Of the disks that are made when fewer images are named."""
LEAST_DISKS: Final = len(DISK_SIZES)
GUEST_SEED: Final = 20150527
"""What the guest writes is the same in every run."""


@dataclass(frozen=True)
class Write:
    """One request of the guest: ``length`` bytes of value ``pattern``."""

    offset: int
    length: int
    pattern: int


@dataclass
class Disk:
    """One disk of the guest and what is known of it as the story goes."""

    name: str
    """Node name in the daemon."""
    path: Path
    size: int
    origin: str
    """Where it came from, for people."""
    dirty: dict[str, int] = field(default_factory=dict)
    """Dirty bytes of its bitmap by chapter of the story."""
    digest: dict[str, str] = field(default_factory=dict)
    """Hash of its bitmap by chapter."""
    outcome: dict[str, str] = field(default_factory=dict)
    """What became of its job by chapter."""
    restored: bool = False
    """Whether its restored chain was found equal to it."""

    @property
    def device(self) -> str:
        """Id of the guest's device."""
        return f"{self.name}-device"

    @property
    def full(self) -> Path:
        """The full backup."""
        return self.path.with_name(f"{self.name}.full.qcow2")

    @property
    def increment(self) -> Path:
        """The incremental backup, whose backing file is the full one."""
        return self.path.with_name(f"{self.name}.inc.qcow2")


async def make_disks(directory: Path, images: list[str]) -> list[Disk]:
    """Make new disks, or an overlay for each of ``images``; at least two.

    Raises ``QmpError``.
    """
    originals = [Path(os.path.abspath(image)) for image in images]  # noqa: PTH100, ASYNC240 - no I/O
    disks = [await _overlay(directory, number, image) for number, image in enumerate(originals)]
    missing = range(len(disks), LEAST_DISKS)
    return disks + [await _new_disk(directory, number, DISK_SIZES[number]) for number in missing]


async def _new_disk(directory: Path, number: int, size: int) -> Disk:
    name = f"disk{number}"
    path = directory / f"{name}.qcow2"
    await create_image(path, "qcow2", size)
    return Disk(name, path, size, "new")


async def _overlay(directory: Path, number: int, original: Path) -> Disk:
    """Leave the image as it is: what the guest writes goes to an overlay on it."""
    name = f"disk{number}"
    facts = await image_facts(original)
    path = directory / f"{name}.qcow2"
    await create_image(path, "qcow2", facts.size, backing=original, backing_format=facts.format)
    return Disk(name, path, facts.size, f"overlay on {original.name}")


def guest_writes(disk: Disk, chapter: str, *, count: int, length: int) -> Iterator[Write]:
    """Yield ``count`` writes at random places that depend on the disk and chapter only."""
    rng = random.Random(f"{GUEST_SEED} {disk.name} {chapter}")  # noqa: S311 - a reproducible guest
    piece = min(length, disk.size)
    for _ in range(count):
        offset = rng.randrange(disk.size // piece) * piece
        yield Write(offset, piece, rng.randrange(1, 256))
