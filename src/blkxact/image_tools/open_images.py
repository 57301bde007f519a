"""Images opened for one command, without a daemon.

Invariants:

* An image opened for writing holds QEMU's locks, so it is refused while another process uses it.
* ``finish`` is where a writer's errors come to light: closing alone would only log them.

QEMU's counterpart: ``img_open`` in ``qemu-img.c``.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from blkxact.block.backend import BlockBackend
from blkxact.block.graph import Graph
from blkxact.block.node import BlockNode
from blkxact.block.open_context import Environment
from blkxact.block.types import Permission
from blkxact.blockdev.blockdev import Blockdev
from blkxact.errors import QmpError
from blkxact.runtime.clock import SystemClock
from blkxact.runtime.throttle.group import ThrottleGroups
from blkxact.storage.network import SystemNetwork
from blkxact.storage.os_file import OsStorage

if TYPE_CHECKING:
    from pathlib import Path

    from blkxact.block_layer import BlockLayer
    from blkxact.machine.objects import Object

JsonObject = dict[str, Any]


class ImageFacts(NamedTuple):
    """What a new overlay needs to know of its backing file."""

    format: str
    size: int
    """Of the virtual disk, in bytes."""


class ImageName(NamedTuple):
    """Which image, and how it is to be opened.

    ``text`` is a file name (``json:`` and protocols included) or, with ``options``, stands for
    those BlockdevOptions. ``format`` None: it is probed. ``cache`` is one of ``CACHE_MODES``.
    """

    text: str
    format: str | None = None
    options: Mapping[str, Any] | None = None
    cache: str = "writeback"


CACHE_MODES: Mapping[str, Mapping[str, bool]] = {
    "none": {"direct": True},
    "off": {"direct": True},
    "directsync": {"direct": True},
    "writeback": {},
    "writethrough": {},
    "unsafe": {"no-flush": True},
}
"""qemu-img's words for what BlockdevCacheOptions say."""
WRITETHROUGH = frozenset({"writethrough", "directsync"})


class Images:
    """The images that one command has open. Made by ``open_images``."""

    def __init__(self, *, with_layer: bool, no_io: bool, objects: Sequence[JsonObject]) -> None:
        self.storage = OsStorage()
        self.clock = SystemClock()
        rng = random.Random()  # noqa: S311 - names of nodes, not secrets
        self._layer: BlockLayer | None = None
        made: dict[str, Object] = {}
        if with_layer:
            self._layer = _make_layer(self.storage, self.clock, rng)
            self._graph, self.blockdev = self._layer.graph, self._layer.blockdev
            groups, made = self._layer.throttle_groups, self._layer.objects
        else:
            self._graph = Graph(rng, self.storage.points)
            groups = ThrottleGroups(self.clock.virtual)
            env = Environment(
                self._graph,
                self.storage,
                self.clock,
                rng,
                groups,
                SystemNetwork(self.clock),
                tls_client=partial(_tls_context, made),
                no_io=no_io,
            )
            self.blockdev = Blockdev(env)
        for members in objects:
            _add_object(made, members, groups)
        self._backends: list[BlockBackend] = []

    @property
    def layer(self) -> BlockLayer:
        """The emulator that has the images, for those who run actions on them."""
        assert self._layer is not None, "open_images(with_layer=True) makes one"
        return self._layer

    async def open(
        self,
        image: str | ImageName,
        fmt: str | None = None,
        *,
        backing: bool = True,
        force_share: bool = False,
        writable: bool = False,
        resize: bool = False,
        discard: bool = False,
    ) -> BlockBackend:
        """Open an image, read-only unless it is to be ``writable`` or to ``resize``.

        ``backing=False`` leaves its backing file alone. ``force_share`` is for an image that
        another process writes to; what is read may then be wrong. ``discard``: what is zeroed may
        be unmapped. Raises ``QmpError``.
        """
        name = ImageName(image, fmt) if isinstance(image, str) else image
        writable = writable or resize
        options: dict[str, Any] = {"read-only": not writable}
        if force_share:
            options["force-share"] = True
        if discard:
            options["discard"] = "unmap"
        if CACHE_MODES[name.cache]:
            options["cache"] = dict(CACHE_MODES[name.cache])
        try:
            node = await self._open_node(name, options, backing=backing)
            needed = Permission.CONSISTENT_READ
            needed |= Permission.WRITE if writable else Permission.NONE
            needed |= Permission.RESIZE if resize else Permission.NONE
            backend = self.attach(node, needed)
        except QmpError as error:
            raise QmpError(f"Could not open '{name.text}': {error.desc}") from error
        backend.write_cache = name.cache not in WRITETHROUGH
        return backend

    async def _open_node(
        self, name: ImageName, options: dict[str, Any], *, backing: bool
    ) -> BlockNode:
        blockdev = self.blockdev
        if name.options is None:
            return await blockdev.open_image(name.text, options, name.format, backing=backing)
        given = dict(name.options)
        if name.format is not None:
            given.setdefault("driver", name.format)
        return await blockdev.open({**options, **given}, backing=backing)

    def attach(
        self, node: BlockNode, perm: Permission, shared: Permission = Permission.ALL
    ) -> BlockBackend:
        """Return a way into a node that is open already; raises ``QmpError``."""
        backend = BlockBackend(self._graph, perm=perm, shared=shared)
        backend.insert(node)
        self._backends.append(backend)
        return backend

    async def finish(self, backend: BlockBackend) -> None:
        """Make all that was written durable and let go of it; raises ``QmpError``, ``OSError``."""
        node = node_of(backend)
        await node.flush()
        backend.set_permissions(Permission.CONSISTENT_READ, Permission.ALL)
        await self.blockdev.set_read_only(node, True)
        await self.forget(backend)

    async def forget(self, backend: BlockBackend) -> None:
        """Close one image, if nothing else uses it."""
        self._backends.remove(backend)
        backend.close()
        await self.blockdev.close_unused()

    async def close(self) -> None:
        """Close all images."""
        for backend in self._backends:
            backend.close()
        await self.blockdev.close_all()
        self.storage.close()


def _make_layer(storage: OsStorage, clock: SystemClock, rng: random.Random) -> BlockLayer:
    # It takes longer to load than most images to look at.
    from blkxact.block_layer import BlockLayer  # noqa: PLC0415
    from blkxact.runtime.events import EventSink  # noqa: PLC0415

    return BlockLayer(storage, clock, EventSink(clock), rng=rng)


def _add_object(objects: dict[str, Object], members: JsonObject, groups: ThrottleGroups) -> None:
    # So does this, with the schema.
    from blkxact.machine.objects import ObjectHost, add_object  # noqa: PLC0415
    from blkxact.qapi.qom import ObjectOptions  # noqa: PLC0415
    from blkxact.qapi.validation import validate_keyval  # noqa: PLC0415

    add_object(objects, validate_keyval(ObjectOptions, members), ObjectHost(groups))


def _tls_context(objects: dict[str, Object], name: str) -> ssl.SSLContext:
    from blkxact.machine.objects import tls_context  # noqa: PLC0415

    return tls_context(objects, name, "client")


@asynccontextmanager
async def open_images(
    *, with_layer: bool = False, no_io: bool = False, objects: Sequence[JsonObject] = ()
) -> AsyncIterator[Images]:
    """Give a command its ``Images``, and close them at the end.

    ``with_layer``: it is going to run actions on them. ``no_io``: it only wants to know what they
    say of themselves, and reads no disk. ``objects`` are made first, as by object-add: credentials
    for instance. Raises ``QmpError``.
    """
    images = Images(with_layer=with_layer, no_io=no_io, objects=objects)
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
    async with open_images(no_io=True) as images:
        node = node_of(await images.open(str(path), backing=False))
        return ImageFacts(node.driver.format_name, node.length)
