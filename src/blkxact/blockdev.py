"""From options to nodes: ``blockdev-add``, ``blockdev-del``, and images opened by their names.

Laws:

* Children are opened before their parent, the backing file after it, when the image has told its
  name. Whatever fails, nothing that was opened on the way stays open.
* A backing file whose format the header names is never probed. An image whose format nobody names
  is probed by its first sector, and then guarded (see ``drivers/raw.py``).
* A node made inline goes with its last parent; one made by ``blockdev-add`` stays until
  ``blockdev-del``.
* Commands take the layer's lock, so two openings never meet.

QEMU's counterpart: ``bdrv_open_inherit`` and its kin in ``block.c``; ``blockdev.c``.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from .block.blockers import BlockOp
from .block.corruption import Emit, tell_of_corruption
from .block.drain import drained
from .block.driver_api import BlockDriver, ChildRole, OpenContext, TlsClient
from .block.graph import Graph
from .block.node import BlockNode
from .block.node_filename import backing_filename
from .block.node_options import NodeOptions
from .block.read_only import set_read_only
from .clock import Clock
from .drivers import find_driver
from .drivers.image_options import child_options, image_options, protocol_options
from .drivers.probe import PROBE_SIZE, probe_format
from .errors import QmpError, strerror
from .storage.api import Network, Storage
from .storage.network import SystemNetwork
from .throttle_group import ThrottleGroups

MAX_BACKING_DEPTH: Final = 200
"""How many backing files may lie below each other; a loop of links ends here at the latest."""

_FROM_HEADER: Final = object()
"""The option ``backing`` is absent: the image's header decides."""

_PROBED: Final = "x-probed"

NodeRef = str | Mapping[str, Any] | None
"""BlockdevRefOrNull."""


class _ChainError(QmpError):
    """The chain of backing files has no end; said once, not for each image on the way."""


class Blockdev:
    """Opens and closes the nodes of one graph."""

    def __init__(
        self,
        graph: Graph,
        storage: Storage,
        clock: Clock,
        rng: random.Random,
        throttle_groups: ThrottleGroups | None = None,
        *,
        network: Network | None = None,
        tls_client: TlsClient | None = None,
        emit: Emit = lambda _event, _data: None,
    ) -> None:
        self.graph = graph
        self._emit = emit
        self._throttle_groups = throttle_groups
        self._network = network or SystemNetwork()
        self._tls_client = tls_client
        self.storage = storage
        self._clock = clock
        self._random = rng
        self.no_io = False
        """Images are only opened for what they say of themselves (BDRV_O_NO_IO)."""

    # Commands

    async def add(self, options: Mapping[str, Any]) -> BlockNode:
        """Make a node that stays until ``delete`` (blockdev-add).

        ``options`` is a BlockdevOptions with wire names, absent members left out. Raises
        ``QmpError``.
        """
        if options.get("node-name") is None:
            raise QmpError("'node-name' must be specified for the root node")
        node = await self.open(options)
        node.monitor_owned = True
        self.graph.ref(node)
        return node

    async def delete(self, node_name: str) -> None:
        """End a node made by ``add`` (blockdev-del). Raises ``QmpError``."""
        node = self.graph.find(node_name)
        if node is None:
            raise QmpError(f"Failed to find node with node-name='{node_name}'")
        if any(edge.parent.is_backend for edge in node.parents):
            raise QmpError(f"Node {node_name} is in use")
        node.check_operation(BlockOp.DRIVE_DEL)
        if not node.monitor_owned:
            raise QmpError(f"Node {node_name} is not owned by the monitor")
        if node.parents or node.refs > 1:
            raise QmpError(f"Block device {node.device_or_node_name} is in use")
        node.monitor_owned = False
        self.graph.unref(node)
        await self.graph.settled()

    async def close_unused(self) -> None:
        """Close the nodes that nobody wants; called when a command or a job is over."""
        self.graph.sweep()
        await self.graph.settled()

    async def close_all(self) -> None:
        """Close every node, parents first; called when no job, device or export is left."""
        self.graph.release_all()
        await self.close_unused()

    # Opening

    async def open(self, options: NodeRef, *, backing: bool = True) -> BlockNode:
        """Return the node that ``options`` define, or that they name.

        A new node belongs to nobody: it lives until the next ``close_unused`` if nobody attaches
        or refs it. ``backing=False`` leaves out the backing file of the header. Raises
        ``QmpError``, with nothing left open.
        """
        try:
            return await self._open(options, None, ChildRole.PRIMARY, backing=backing)
        except BaseException:
            await self.graph.settled()
            raise

    async def open_image(
        self,
        filename: str,
        options: Mapping[str, Any] | None = None,
        fmt: str | None = None,
        *,
        backing: bool = True,
    ) -> BlockNode:
        """Return a new node for the image of that name; see ``open``.

        ``options`` are members of BlockdevOptions for it; ``fmt`` None: the format is probed.
        Raises ``QmpError``.
        """
        merged = _merged(image_options(filename, fmt), options or {})
        return await self.open(merged, backing=backing)

    async def insert_node(self, node: BlockNode, options: Mapping[str, Any]) -> BlockNode:
        """Make a filter that has ``node`` among its children, and give it all other parents.

        The caller holds the filter (``Graph.ref``) and gives it back with ``Graph.unref``. Raises
        ``QmpError`` with the graph as it was.
        """
        try:
            above = await self.open(options)
        except QmpError as error:
            raise QmpError(f"Could not create node: {error.desc}") from error
        self.graph.ref(above)
        try:
            async with drained([node]):
                self.graph.replace_node(node, above)
        except BaseException as error:
            self.graph.unref(above)
            await self.graph.settled()
            if isinstance(error, QmpError):
                raise QmpError(f"Could not replace node: {error.desc}") from error
            raise
        return above

    async def set_read_only(self, node: BlockNode, read_only: bool) -> None:
        """Reopen a node and the nodes that hold its data. Raises ``QmpError``, nothing changed."""
        await set_read_only(self.graph, node, read_only)

    async def _open(
        self,
        options: NodeRef,
        parent: NodeOptions | None,
        role: ChildRole,
        *,
        backing: bool = True,
        chain: tuple[str, ...] = (),
    ) -> BlockNode:
        if isinstance(options, str):
            return self.graph.lookup(options, options)
        _check_depth(chain, MAX_BACKING_DEPTH + 2)  # the last image has files of its own
        members = dict(options or {})
        common = NodeOptions.take(members, parent, role)
        node = BlockNode("", options, read_only=common.read_only)
        # Held while they are being made; given free at the end, for the caller to take.
        self.graph.ref(node)
        opened: dict[str, BlockNode] = {}
        try:
            driver_class = await self._find_driver(opened, members, common, chain)
            backing_option = members.pop("backing", _FROM_HEADER)
            roles = driver_class.child_roles(members)
            # The order in which QEMU opens and names them shows in queries.
            files = {name: role for name, role in roles.items() if name == "file"}
            await self._open_children(opened, files, members, common, chain)
            self._name(node, common)
            await self._open_children(opened, roles, members, common, chain)
            for name, child_role in roles.items():
                self.graph.attach(node, opened[name], name, child_role)
            if not self.no_io:
                await self._open_named(node, driver_class, opened, common)
            await self._open_driver(node, driver_class, members, common)
            if backing or backing_option is not _FROM_HEADER:
                await self._open_backing(node, backing_option, common, chain)
        except BaseException:
            self.graph.unref(node)
            raise
        finally:
            for child in opened.values():
                self.graph.unref(child)
        node.refs -= 1
        return node

    async def _find_driver(
        self,
        opened: dict[str, BlockNode],
        members: dict[str, Any],
        common: NodeOptions,
        chain: tuple[str, ...],
    ) -> type[BlockDriver]:
        """Return the driver that the options name, or that the image's first sector tells."""
        name = members.pop("driver", None)
        if name is not None:
            return find_driver(name)
        if "filename" in members and "file" not in members:
            members.update(protocol_options(members.pop("filename")))
            return find_driver(members.pop("driver"))
        if "file" not in members:
            raise QmpError("Must specify either driver or file")
        await self._open_children(opened, {"file": ChildRole.IMAGE}, members, common, chain)
        name = await _probe(opened["file"])
        if name == "raw":
            members[_PROBED] = True
        return find_driver(name)

    async def _open_children(
        self,
        opened: dict[str, BlockNode],
        roles: Mapping[str, ChildRole],
        members: dict[str, Any],
        common: NodeOptions,
        chain: tuple[str, ...],
    ) -> None:
        """Add the children in ``roles`` that are not in ``opened`` yet, each held."""
        for name, role in roles.items():
            if name not in opened:
                option = members.pop(name, None)
                if option is None:
                    raise QmpError(f'A block device must be specified for "{name}"')
                below = (*chain, "") if chain else ()
                child = await self._open(option, common, role, chain=below)
                opened[name] = self.graph.ref(child)

    async def _open_named(
        self,
        node: BlockNode,
        driver_class: type[BlockDriver],
        opened: dict[str, BlockNode],
        common: NodeOptions,
    ) -> None:
        """Open and attach the children that the image names and the options do not."""
        for name, (role, filename) in (await driver_class.named_children(node.children)).items():
            if name not in opened:
                option = child_options(filename)
                opened[name] = self.graph.ref(await self._open(option, common, role))
                self.graph.attach(node, opened[name], name, role)

    async def _open_driver(
        self,
        node: BlockNode,
        driver_class: type[BlockDriver],
        members: Mapping[str, Any],
        common: NodeOptions,
    ) -> None:
        context = OpenContext(
            storage=self.storage,
            clock=self._clock,
            random=self._random,
            node_name=node.node_name,
            read_only=common.read_only,
            discard=common.discard,
            detect_zeroes=common.detect_zeroes != "off",
            no_flush=common.no_flush,
            auto_read_only=common.auto_read_only,
            throttle_groups=self._throttle_groups,
            find_bitmap=self.graph.find_bitmap,
            network=self._network,
            tls_client=self._tls_client,
            on_corruption=partial(tell_of_corruption, self._emit, node),
            no_io=self.no_io,
        )
        try:
            driver = await driver_class.open(context, members, node.children)
        except OSError as error:
            raise _open_error(node, error) from error
        node.opened(driver)
        self.graph.refresh(node)
        await node.load_bitmaps()

    def _name(self, node: BlockNode, common: NodeOptions) -> None:
        """Enter the node into the graph under its name, with the options of every node."""
        name = common.node_name
        if name is None:
            name = self.graph.generate_name()
        else:
            self.graph.check_name(name)
        node.node_name = name
        node.force_share = common.force_share
        node.discard = common.discard
        node.detect_zeroes = common.detect_zeroes
        node.cache = {"writeback": True, "direct": common.direct, "no-flush": common.no_flush}
        self.graph.add(node)

    # Backing files

    async def _open_backing(
        self, node: BlockNode, option: Any, common: NodeOptions, chain: tuple[str, ...]
    ) -> None:
        """Open and attach the backing file that the option or else the header names."""
        driver = node.driver
        chain = chain or (node.primary.filename if node.primary else "",)
        if option is None or option == "":
            return
        given = option if isinstance(option, Mapping) else {}
        path = ""
        if option is _FROM_HEADER or _leaves_name_to_header(option):
            if not driver.backing_file:
                return
            path = _backing_path(node, chain)
        if not driver.supports_backing:
            raise QmpError("Driver doesn't support backing files")
        try:
            if path:
                fmt = given.get("driver") or driver.backing_format
                option = _merged(image_options(path, fmt), given)
            backing = await self._open(option, common, ChildRole.COW, chain=(*chain, path))
        except _ChainError:
            raise
        except QmpError as error:
            raise QmpError(f"Could not open backing file: {error.desc}") from error
        self.graph.ref(backing)
        if path and not given:
            node.backing_opened_as = backing.filename
        try:
            self.graph.set_backing(node, backing)
        finally:
            self.graph.unref(backing)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of both, of objects too; where both have one it is that of ``above``."""
    result = {**below, **above}
    for name, member in above.items():
        if isinstance(member, Mapping) and isinstance(below.get(name), Mapping):
            result[name] = _merged(below[name], member)
    return result


def _leaves_name_to_header(backing: Any) -> bool:
    """Return whether the options of a backing file say something of it, but not where it is."""
    if not isinstance(backing, Mapping) or "filename" in backing:
        return False
    file = backing.get("file")
    if isinstance(file, Mapping):
        return not file.keys() & {"filename", "driver"}
    return file is None and "driver" not in backing


def _backing_path(node: BlockNode, chain: tuple[str, ...]) -> str:
    """Return the name of the backing file in the header, unless the chain would have no end."""
    path = backing_filename(node)
    if path in chain:
        raise _ChainError(f"Backing file '{path}' creates an infinite loop.")
    _check_depth(chain, MAX_BACKING_DEPTH)
    return path


def _check_depth(chain: tuple[str, ...], limit: int) -> None:
    """Refuse to open more below one image: what headers name could lead on without an end."""
    if len(chain) > limit:
        raise _ChainError(
            f"There are more than {MAX_BACKING_DEPTH} backing files below '{chain[0]}'"
        )


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


def _open_error(node: BlockNode, error: OSError) -> QmpError:
    # The node has no driver to ask for its name yet; it will be that of its file.
    name = node.primary.filename if node.primary else ""
    what = f"Could not open '{name}'" if name else "Could not open image"
    return QmpError(f"{what}: {strerror(error) if error.errno else str(errno.EIO)}")
