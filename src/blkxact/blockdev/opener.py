"""Opening nodes: from BlockdevOptions to open images, their children and their backing files.

Invariants:

* Children are opened before their parent, the backing file after it, when the image has given its
  name. Whatever fails, nothing that was opened on the way stays open.
* A backing file whose format the header names is never probed. An image whose format nobody names
  is probed by its first sector, and then guarded (see ``drivers/raw.py``).
* A chain of backing files ends at ``MAX_BACKING_DEPTH``.

QEMU's counterpart: ``bdrv_open_inherit`` and so on in ``block.c``.
"""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from blkxact.block.backend import BlockBackend
from blkxact.block.corruption import report_corruption
from blkxact.block.driver_api import BlockDriver
from blkxact.block.graph import Graph
from blkxact.block.node import BlockNode
from blkxact.block.node_filename import Filenames
from blkxact.block.node_options import NodeOptions
from blkxact.block.open_context import Environment, OpenContext
from blkxact.block.types import MAX_LENGTH, ChildRole
from blkxact.drivers import find_driver
from blkxact.drivers.driver_options import PlainOptions
from blkxact.drivers.image_options import file_options, image_options, merged, protocol_options
from blkxact.drivers.probe import PROBE_SIZE, probe_format
from blkxact.errors import QmpError, strerror

from .backing_name import (
    MAX_BACKING_DEPTH,
    ChainError,
    backing_path,
    check_depth,
    refuse_second_name,
    takes_name_of_header,
)
from .opening import NodeDefinition, NodeRef, Opening, members_of

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

_FROM_HEADER: Final = object()
"""The option ``backing`` is absent: the image's header decides."""


class NamedNodeError(Exception):
    """What is opened apart names a node that others see too."""


class NodeOpener:
    """Opens the nodes of the environment's graph."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.graph = env.graph
        self._apart: list[BlockNode] | None = None
        """The nodes that were opened so far, if others are not to see them yet."""
        self._names = Filenames()
        """The names of the nodes that are being opened; those below them have all they need."""

    async def open(
        self, options: NodeRef, *, backing: bool, inherited: Mapping[str, Any] = NOTHING
    ) -> BlockNode:
        """Return the node that ``options`` define, or that they name; see ``Blockdev.open``."""
        return await self._anew()._open(options, inherited, backing=backing)  # noqa: SLF001 - its own

    async def open_apart(self, options: NodeDefinition) -> tuple[BlockNode, list[BlockNode]]:
        """Return a new node, and all new ones in order, for the caller to list (``Graph.add``).

        Until then they are ``Graph.unlisted``, so that other commands may run meanwhile. Raises
        ``QmpError``, or ``NamedNodeError`` if a node that others see would become a child.
        """
        opener = self._anew()
        nodes: list[BlockNode] = []
        opener._apart = nodes  # noqa: SLF001 - one of this class
        return await opener.open(options, backing=True), nodes

    def _anew(self) -> NodeOpener:
        """Return what opens one node and all below it."""
        opener = copy.copy(self)
        opener._names = Filenames()  # noqa: SLF001 - one of this class
        return opener

    async def _open(
        self,
        options: NodeRef,
        inherited: Mapping[str, Any],
        *,
        backing: bool = True,
        chain: tuple[str, ...] = (),
    ) -> BlockNode:
        if isinstance(options, str):
            if self._apart is not None:
                raise NamedNodeError
            return self.graph.lookup(options, options)
        check_depth(chain, MAX_BACKING_DEPTH + 2)  # the last image has files of its own
        opening = Opening.begin(options, inherited, chain)
        node = opening.node
        # Held while they are being made; released at the end, for the caller to take.
        self.graph.ref(node)
        try:
            driver_class = await self._find_driver(opening)
            backing_option = opening.members.pop("backing", _FROM_HEADER)
            await self._open_defined(opening, driver_class)
            if not self.env.no_io:
                await self._open_named(opening, driver_class)
            await self._open_driver(opening, driver_class)
            if backing or backing_option is not _FROM_HEADER:
                await self._open_backing(node, backing_option, opening.common, chain)
            opening.check_leftovers(driver_class)
        except BaseException:
            self.graph.unref(node)
            raise
        finally:
            for child in opening.opened.values():
                self.graph.unref(child)
        node.refs -= 1
        return node

    async def _find_driver(self, opening: Opening) -> type[BlockDriver]:
        """Return the driver that the options name, or that the image's first sector shows."""
        members = opening.members
        name = members.pop("driver", None)
        if name is not None:
            return find_driver(name)
        if "filename" in members and "file" not in members:
            members.update(protocol_options(members.pop("filename"), self.env.storage.is_device))
            return find_driver(members.pop("driver"))
        if "file" not in members:
            raise QmpError("Must specify either driver or file")
        await self._open_children(opening, {"file": ChildRole.IMAGE})
        name = await _probe(opening.opened["file"])
        opening.probed = name == "raw"
        return find_driver(name)

    # Children

    async def _open_defined(self, opening: Opening, driver_class: type[BlockDriver]) -> None:
        """Open and attach the children that the options define; name the node."""
        node = opening.node
        roles = driver_class.child_roles(opening.model or PlainOptions(opening.members))
        opening.spread_list(driver_class)
        # QEMU's order of opening and naming shows in queries, and in which error is reported.
        await self._open_children(opening, {n: r for n, r in roles.items() if n == "file"})
        if "file" in opening.referenced:
            _check_use(self.graph, opening.opened["file"])
        opening.common.check()
        node.opening_as = driver_class
        self._name(node, opening.common)
        for name, role in roles.items():
            if opening.members.get(name) == node.node_name:
                raise _cycle(node, name)
            await self._open_children(opening, {name: role})
            self.graph.attach(node, opening.opened[name], name, role)
            if name not in opening.referenced:
                opening.opened[name].inherits_from = node

    async def _open_children(self, opening: Opening, roles: Mapping[str, ChildRole]) -> None:
        """Open the children in ``roles`` that are not open yet, each held."""
        for name, role in roles.items():
            if name not in opening.opened:
                option = opening.members.pop(name, None)
                if option is None:
                    raise QmpError(f'A block device must be specified for "{name}"')
                if isinstance(option, str):
                    opening.referenced.add(name)
                below = (*opening.chain, "") if opening.chain else ()
                child = await self._open(option, opening.passed_to(name, role), chain=below)
                opening.opened[name] = self.graph.ref(child)

    async def _open_named(self, opening: Opening, driver_class: type[BlockDriver]) -> None:
        """Open and attach the children that the image names and the options do not."""
        node, opened = opening.node, opening.opened
        for name, (role, filename) in (await driver_class.named_children(node.children)).items():
            if name not in opened:
                # Just a file: a json: name could lead anywhere (CVE-2024-4467).
                option = file_options(filename, self.env.storage.is_device)
                child = await self._open(option, opening.common.passed_to(role))
                opened[name] = self.graph.ref(child)
                self.graph.attach(node, opened[name], name, role)
                opened[name].inherits_from = node

    async def _open_driver(self, opening: Opening, driver_class: type[BlockDriver]) -> None:
        node, common = opening.node, opening.common
        context = OpenContext(
            self.env,
            node_name=node.node_name,
            read_only=common.read_only,
            discard=common.discard,
            detect_zeroes=common.detect_zeroes != "off",
            no_flush=common.no_flush,
            auto_read_only=common.auto_read_only,
            inactive=not common.active,
            probed=opening.probed,
            on_corruption=partial(report_corruption, self.env.emit, node),
        )
        options = opening.driver_options(driver_class)
        try:
            driver = await driver_class.open(context, options, node.children)
        except OSError as error:
            raise _open_error(node, error) from error
        node.opened(driver)
        if driver.length > MAX_LENGTH:
            raise QmpError(f"Could not refresh total sector count: {os.strerror(errno.EFBIG)}")
        self.graph.refresh(node)
        if not node.inactive:
            await self.graph.points.reach("bitmap.load", node=node.node_name)
            await node.load_bitmaps()

    def _name(self, node: BlockNode, common: NodeOptions) -> None:
        """Enter the node into the graph under its name, with the options of every node."""
        name = common.node_name
        if name is None:
            name = self.graph.generate_name()
        else:
            self.graph.check_name(name)
        node.node_name = name
        node.take_common(common)
        if self._apart is None:
            self.graph.add(node)
        else:
            self.graph.unlisted[name] = node
            self._apart.append(node)

    # Backing files

    async def open_backing(self, node: BlockNode) -> None:
        """Open and attach the backing file that the header names; see ``Blockdev.open_backing``."""
        opener = self._anew()
        await opener._open_backing(node, _FROM_HEADER, node.common, ())  # noqa: SLF001 - as above

    async def _open_backing(
        self, node: BlockNode, option: Any, common: NodeOptions, chain: tuple[str, ...]
    ) -> None:
        """Open and attach the backing file that the option or else the header names."""
        driver = node.driver
        chain = chain or (node.primary.filename if node.primary else "",)
        if option is None or option == "":
            return
        given: NodeDefinition = {} if option is _FROM_HEADER or isinstance(option, str) else option
        path = ""
        if driver.backing_file and (option is _FROM_HEADER or takes_name_of_header(option)):
            path = backing_path(node, chain)
        if not path and (option is _FROM_HEADER or option == {}):
            return
        if not driver.supports_backing:
            raise QmpError("Driver doesn't support backing files")
        try:
            if path:
                refuse_second_name(given, path)
                own = members_of(given)
                fmt = own.get("driver") or driver.backing_format
                option = merged(image_options(path, fmt, self.env.storage.is_device), own)
            backing = await self._open(
                option, common.passed_to(ChildRole.COW), chain=(*chain, path)
            )
        except ChainError:
            raise
        except QmpError as error:
            raise QmpError(f"Could not open backing file: {error.desc}") from error
        self.graph.ref(backing)
        if path and not given:
            node.backing_opened_as = self._names.name(backing)
        try:
            self.graph.set_backing(node, backing)
            if not isinstance(option, str):
                backing.inherits_from = node
        finally:
            self.graph.unref(backing)


def _check_use(graph: Graph, node: BlockNode) -> None:
    """Raise ``QmpError`` if a node may not get a parent: QEMU gives it one to probe it."""
    probing = BlockBackend(graph)
    probing.insert(node)
    probing.remove()


async def _probe(file: BlockNode) -> str:
    """Return the format of an image by its first sector."""
    if not file.length:
        return "raw"
    try:
        return probe_format(await file.pread(0, PROBE_SIZE))
    except OSError as error:
        raise QmpError(
            f"Could not read image for determining its format: {strerror(error)}"
        ) from error


def _cycle(node: BlockNode, child: str) -> QmpError:
    name = node.node_name
    return QmpError(f"Making '{name}' a {child} child of '{name}' would create a cycle")


def _open_error(node: BlockNode, error: OSError) -> QmpError:
    # The node has no driver to ask for its name yet; it will be that of its file.
    name = node.primary.filename if node.primary else ""
    what = f"Could not open '{name}'" if name else "Could not open image"
    return QmpError(f"{what}: {strerror(error) if error.errno else str(errno.EIO)}")
