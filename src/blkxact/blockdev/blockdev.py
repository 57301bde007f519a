"""From options to nodes: ``blockdev-add``, ``blockdev-del``, and images opened by their names.

Invariants:

* A node made inline goes with its last parent; one made by ``blockdev-add`` stays until
  ``blockdev-del``.
* Commands hold the layer's lock, so two openings never meet, except that ``add_apart`` opens nodes
  without it: these share no node with others, and are listed, under the lock, once all are open.

QEMU's counterpart: ``blockdev.c``. How an image is opened: ``opener.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from blkxact.block.blockers import BlockOp
from blkxact.block.node import BlockNode
from blkxact.block.open_context import Environment
from blkxact.drivers.image_options import image_options, merged
from blkxact.errors import QmpError

from .opener import NOTHING, NodeOpener
from .opening import NodeDefinition, NodeRef, members_of
from .reopen import change_options, reopen_nodes, set_read_only


class Blockdev:
    """Opens and closes the nodes of the environment's graph."""

    def __init__(self, env: Environment) -> None:
        self.graph = env.graph
        self.storage = env.storage
        self._opener = NodeOpener(env)

    # Commands

    async def add(self, options: NodeDefinition) -> BlockNode:
        """Make a node that stays until ``delete`` (blockdev-add).

        Raises ``QmpError``.
        """
        _check_root_name(options)
        node = await self.open(options)
        node.monitor_owned = True
        self.graph.ref(node)
        return node

    async def add_apart(
        self, options: NodeDefinition, listing: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        """Make a node as ``add`` does, while other commands run (``NodeOpener.open_apart``).

        It is listed inside of ``listing``. Raises ``QmpError``, also that of ``listing``, and
        ``NamedNodeError``, with nothing left open.
        """
        _check_root_name(options)
        root = None
        try:
            root, nodes = await self._opener.open_apart(options)
            self.graph.ref(root)
            async with listing():
                for node in nodes:
                    self.graph.add(node)
                root.monitor_owned = True
        except BaseException:
            if root is not None:
                self.graph.unref(root)
            await self.graph.settled()
            raise

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

    async def open(
        self, options: NodeRef, *, backing: bool = True, inherited: Mapping[str, Any] = NOTHING
    ) -> BlockNode:
        """Return the node that ``options`` define, or that they name.

        A new node belongs to nobody: it is closed by the next ``close_unused`` unless it has been
        attached or referenced. ``backing=False`` leaves out the backing file of the header. Raises
        ``QmpError``, with nothing left open.
        """
        try:
            return await self._opener.open(options, backing=backing, inherited=inherited)
        except BaseException:
            await self.graph.settled()
            raise

    async def open_image(
        self,
        filename: str,
        options: Mapping[str, Any] | None = None,
        fmt: str | None = None,
        *,
        inherited: Mapping[str, Any] = NOTHING,
        backing: bool = True,
    ) -> BlockNode:
        """Return a new node for the image of that name; see ``open``.

        ``options`` are members of BlockdevOptions for it; ``fmt`` None: the format is probed.
        ``inherited`` are ``NodeOptions.flags`` of another node. Raises ``QmpError``.
        """
        options = merged(image_options(filename, fmt, self.storage.is_device), options or {})
        return await self.open(options, backing=backing, inherited=inherited)

    async def open_backing(self, node: BlockNode) -> None:
        """Open and attach the backing file that the image's header names, if it names one.

        Raises ``QmpError``.
        """
        await self._opener.open_backing(node)

    async def reopen(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """Give nodes other options (blockdev-reopen): all of them or none. Raises ``QmpError``."""
        await reopen_nodes(self.graph, wanted)

    async def change_options(self, node: BlockNode, members: Mapping[str, Any]) -> None:
        """Reopen a node with some other options. Raises ``QmpError``, nothing changed."""
        await change_options(self.graph, node, members)

    async def set_read_only(self, node: BlockNode, read_only: bool) -> None:
        """Reopen a node with the children defined in it. Raises ``QmpError``, nothing changed."""
        await set_read_only(self.graph, node, read_only)


def _check_root_name(options: NodeDefinition) -> None:
    if members_of(options).get("node-name") is None:
        raise QmpError("'node-name' must be specified for the root node")
