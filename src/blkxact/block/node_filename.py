"""The name of a node: what to open to get the same image, children and all.

A short name (``disk.qcow2``) serves where opening it gives the node that we have. Where options or
children were chosen otherwise, the name is ``json:`` with those options.

QEMU's counterpart: ``bdrv_refresh_filename`` in ``block.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from blkxact.errors import QmpError
from blkxact.qmp.qdict import flattened, in_qdict_order

from .filename import JSON_PREFIX, combine, is_absolute

if TYPE_CHECKING:
    from .node import BlockNode

MAX_FILENAME: Final = 4095
"""Bytes of the longest name (PATH_MAX, less its end); QEMU cuts a longer one short, with dots."""
_CUT: Final = "..."


def node_filename(node: BlockNode) -> str:
    """Return the short name of the node, or else its options as a ``json:`` name."""
    return Filenames().name(node)


def short_filename(node: BlockNode) -> str:
    """Return the name that alone would open the same image, or "" if there is none."""
    return Filenames().short(node)


def backing_filename(node: BlockNode) -> str:
    """Return the name of the backing file in the image's header, as it is meant from here.

    A relative name starts in the directory of the image's own file; raises ``QmpError`` where
    there is none.
    """
    name = node.driver.backing_file
    if name.startswith(JSON_PREFIX) or is_absolute(name):
        return name
    bottom = _bottom(node)
    if not bottom.driver.filename:
        raise QmpError(f"Cannot generate a base directory for {bottom.driver.format_name} nodes")
    return combine(bottom.driver.filename, name)


def base_directory_name(node: BlockNode) -> str:
    """Return a name in the directory where the image's relative names start, or ""."""
    return _bottom(node).driver.filename or ""


def has_other_backing(node: BlockNode) -> bool:
    """Return whether the backing file is not the one that the image's header names."""
    return Filenames().has_other_backing(node)


def _bottom(node: BlockNode) -> BlockNode:
    while node.primary is not None:
        node = node.primary
    return node


class Filenames:
    """The names of many nodes. What decides the name of each is looked at once.

    A node's name depends on what is below it, so naming a chain node by node takes a number of
    steps that grows with the square of its length. Nobody changes the graph while this is in use.
    """

    def __init__(self) -> None:
        self._names: dict[BlockNode, str] = {}
        self._shorts: dict[BlockNode, str] = {}
        self._options: dict[BlockNode, dict[str, Any]] = {}
        self._other: dict[BlockNode, bool] = {}

    def name(self, node: BlockNode) -> str:
        """Return what ``node_filename`` does; "" for a node that is not open."""
        chain: list[BlockNode] = []
        layer: BlockNode | None = node
        while layer is not None and layer not in self._names:
            chain.append(layer)
            layer = layer.below
        for layer in reversed(chain):  # from the bottom: no chain is too long for the stack
            self._names[layer] = self._find_name(layer) if layer.is_open else ""
        return self._names[node]

    def _find_name(self, node: BlockNode) -> str:
        if node.filtered is not None and node.implicit:
            return self.name(node.filtered)
        name = self.short(node) or _json_name(self.options(node))
        if len(name) > MAX_FILENAME and name.startswith(JSON_PREFIX):
            return name[: MAX_FILENAME - len(_CUT)] + _CUT
        return name

    def short(self, node: BlockNode) -> str:
        """Return what ``short_filename`` does."""
        if node not in self._shorts:
            self._shorts[node] = self._find_short(node)
        return self._shorts[node]

    def _find_short(self, node: BlockNode) -> str:
        driver = node.driver
        if node.filtered is not None and node.implicit:
            return self.short(node.filtered)
        if driver.filename is not None:
            return driver.filename
        if node.filtered is not None and driver.is_filter:
            return self.name(node.filtered)
        primary = node.primary
        if primary is None or not primary.is_open:
            return ""
        if not primary.driver.is_protocol or _chosen(node) or self.has_other_backing(node):
            return ""
        return self.short(primary)

    def options(self, node: BlockNode) -> dict[str, Any]:
        """Return the BlockdevOptions that decide what the image holds; parts of it are shared."""
        if node not in self._options:
            self._options[node] = self._find_options(node)
        return self._options[node]

    def _find_options(self, node: BlockNode) -> dict[str, Any]:
        if node.implicit and node.filtered is not None:
            return self.options(node.filtered)
        options = {"driver": node.driver.format_name, **_chosen(node), **self._children(node)}
        if node.backing is None and self.has_other_backing(node):
            options["backing"] = None
        return in_qdict_order(options)

    def _children(self, node: BlockNode) -> dict[str, Any]:
        """Return the options of the children; those in a list are renumbered."""
        edges = node.children.values()
        if node.driver.child_list:
            return {node.driver.child_list: [self.options(edge.node) for edge in edges]}
        return {
            edge.name: self.options(edge.node)
            for edge in edges
            if edge is not node.backing_child or self.has_other_backing(node)
        }

    def has_other_backing(self, node: BlockNode) -> bool:
        """Return whether the backing file differs from the header's, judged by the names."""
        if node not in self._other:
            self._other[node] = self._find_other_backing(node)
        return self._other[node]

    def _find_other_backing(self, node: BlockNode) -> bool:
        if node.driver.context.env.no_io:  # nobody has looked for it
            return False
        backing, named = node.backing, node.driver.backing_file
        if backing is None or not named:
            return bool(named) or backing is not None
        name = self.name(backing)
        try:
            return name not in {named, backing_filename(node), node.backing_opened_as}
        except QmpError:
            return True


def _chosen(node: BlockNode) -> dict[str, Any]:
    """Return the options given to the node that change what the image holds."""
    strong = node.driver.strong_options
    given = {**node.options, **node.texts}.items()
    return flattened({name: value for name, value in given if name in strong and value is not None})


def _json_name(options: Mapping[str, Any]) -> str:
    from blkxact.qmp.json_text import encode_text  # noqa: PLC0415 - few names are JSON

    return JSON_PREFIX + encode_text(options)
