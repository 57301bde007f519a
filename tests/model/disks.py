"""The disks of a guest, as the model has them: chains of images."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from .bitmaps import Chain, ModelBitmap
from .contents import SECTOR, Contents

KIB = 1024


@dataclass(eq=False)
class ModelNode:
    """An image of a disk's chain. ``contents`` is what is read through it."""

    name: str
    path: str
    fmt: str
    contents: Contents
    backing: ModelNode | None = None
    rules: list[dict[str, Any]] = field(default_factory=list)
    """inject-error rules of a blkdebug node between the image and its file."""
    bitmaps: dict[str, ModelBitmap] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return BlockdevOptions for the chain from here on."""
        file: dict[str, Any] = {"driver": "file", "filename": self.path}
        if self.rules:
            file = {"driver": "blkdebug", "image": file, "inject-error": self.rules}
        options = {"driver": self.fmt, "node-name": self.name, "file": file, "discard": "unmap"}
        if self.fmt == "qcow2":
            options["backing"] = self.backing.options() if self.backing else None
        return options

    def chain(self) -> Chain:
        """Return the images from here on downwards."""
        return ((self.path, self.fmt), *(self.backing.chain() if self.backing else ()))


@dataclass(eq=False)
class Disk:
    """A guest's disk. ``busy``: requests under way, ``(start, end, stamp)``; reads have none."""

    device: str
    top: ModelNode
    busy: list[tuple[int, int, int | None]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.top.contents.size

    def nodes(self) -> list[ModelNode]:
        found, node = [], self.top
        while node is not None:
            found.append(node)
            node = node.backing
        return found


def random_size(rng: random.Random) -> int:
    """Return the size of a disk; sometimes its last cluster is cut short."""
    return rng.choice([8, 20]) * 64 * KIB + rng.choice([0, 0, 4 * KIB, 3 * SECTOR])


def random_range(rng: random.Random, size: int) -> tuple[int, int]:
    """Return a range of whole sectors; often whole clusters, mostly short."""
    unit = rng.choice([SECTOR, 4 * KIB, 64 * KIB, 64 * KIB])
    offset = rng.randrange(0, size, unit)
    length = unit * rng.choice([1, 1, 2, 3, 8])
    return offset, min(length, size - offset)
