"""Images opened and made for one command, without a daemon.

QEMU's counterpart: ``img_open`` in ``qemu-img.c``.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from blkxact.block.backend import BlockBackend
from blkxact.block.driver_api import Permission
from blkxact.block.graph import Graph
from blkxact.block.node import BlockNode
from blkxact.blockdev import Blockdev
from blkxact.clock import SystemClock
from blkxact.errors import QmpError
from blkxact.storage.os_file import OsStorage


class ImageFacts(NamedTuple):
    """What a new overlay needs to know of its backing file."""

    format: str
    size: int
    """Of the virtual disk, in bytes."""


class Images:
    """The images that one command has open. Made by ``open_images``."""

    def __init__(self) -> None:
        self.storage = OsStorage()
        self._graph = Graph()
        self._blockdev = Blockdev(
            self._graph,
            self.storage,
            SystemClock(),
            random.Random(),  # noqa: S311 - names of nodes, not secrets
        )
        self._backends: list[BlockBackend] = []

    async def open(
        self,
        filename: str,
        fmt: str | None = None,
        *,
        backing: bool = True,
        force_share: bool = False,
    ) -> BlockBackend:
        """Open an image read-only; without ``fmt`` its format is probed.

        ``force_share`` is for an image that another process writes to; what is read may then be
        wrong. Raises ``QmpError``.
        """
        options: dict[str, Any] = {"read-only": True}
        if force_share:
            options["force-share"] = True
        try:
            node = await self._blockdev.open_image(filename, options, fmt, backing=backing)
        except QmpError as error:
            raise QmpError(f"Could not open '{filename}': {error.desc}") from error
        backend = BlockBackend(self._graph, perm=Permission.CONSISTENT_READ)
        backend.insert(node)
        self._backends.append(backend)
        return backend

    async def close(self) -> None:
        """Close all images."""
        for backend in self._backends:
            backend.close()
        await self._blockdev.close_all()
        self.storage.close()


@asynccontextmanager
async def open_images() -> AsyncIterator[Images]:
    """Give a command its ``Images``, and close them at the end."""
    images = Images()
    try:
        yield images
    finally:
        await images.close()


def node_of(backend: BlockBackend) -> BlockNode:
    """Return the node of an image from ``Images.open``."""
    assert backend.node is not None
    return backend.node


async def image_facts(path: Path) -> ImageFacts:
    """Return format and size of an image; raises ``QmpError``."""
    async with open_images() as images:
        node = node_of(await images.open(str(path), backing=False))
        return ImageFacts(node.driver.format_name, node.length)
