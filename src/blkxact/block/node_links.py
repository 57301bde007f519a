"""What a node of the block graph is and how it is linked; ``node.py`` adds its requests.

QEMU's counterpart: the fields of ``BlockDriverState`` that ``block.c`` keeps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING

from blkxact.qapi.versions import DISCARD_CONCERNS_ROOTS, behaves

from .blockers import Blockers, BlockOp
from .child import Child, Parent
from .driver_api import BlockDriver
from .node_options import NodeOptions
from .parents import Parents
from .types import SECTOR, ChildRole, Permission

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap

    from .drain import DrainSection
    from .node import BlockNode
    from .write_threshold import WriteThreshold


class LinkedNode(Parent):
    """A node among its parents and children. ``driver`` is there once the node is open."""

    driver: BlockDriver
    texts: Mapping[str, str] = MappingProxyType({})
    """Options that were given as texts (``-drive``), which names of images repeat."""
    backing_opened_as: str | None = None
    """Filename of the backing file that was opened because the image's header names it."""

    def __init__(self, node_name: str, *, read_only: bool = False, inactive: bool = False) -> None:
        self.node_name = node_name
        self.opening_read_only = read_only
        self.opening_inactive = inactive
        self.is_open = False
        self.opening_as: type[BlockDriver] | None = None
        """The class of the driver, as soon as that is known."""
        self.children: dict[str, Child] = {}
        self.parents = Parents()
        self.blockers = Blockers()
        self.bitmaps: dict[str, DirtyBitmap] = {}
        self.job_bitmaps: list[DirtyBitmap] = []
        """Nameless bitmaps in which jobs have writes recorded."""
        self.bitmap_serials = count(1)
        """Numbers for the bitmaps of the node, in the order in which they are made."""
        self.shown_bitmaps: list[DirtyBitmap] = []
        """Nameless bitmaps of filters and jobs on this node, for queries."""
        self.sections: list[DrainSection] = []
        """The drained sections that name this node or one below it."""
        self.refs = 0
        """Holds on the node besides its parents' edges (``Graph.ref``)."""
        self.held = (Permission.NONE, Permission.ALL)
        """The masks of all parents together, as last passed to the driver."""
        self.monitor_owned = False
        """Made by ``blockdev-add``, so only ``blockdev-del`` ends it."""
        self.implicit = False
        """Put in by a job; queries show the node below instead."""
        self.never_freeze = False
        """Links to this node are not frozen, since the job that inserted it removes it again."""
        self.inherits_from: BlockNode | None = None
        """The node in whose options this one was defined: it is reopened with that."""
        self.write_threshold: WriteThreshold | None = None
        """Set by ``block-set-write-threshold``."""
        self.copy_on_read: Callable[[int, int], Awaitable[None]] | None = None
        """Copies a range that is about to be read into the own layer (``copy_on_read.enable``)."""
        self.turns_read_only = False
        """A reopen is taking away that it can be written."""
        self.take_common(NodeOptions())

    def take_common(self, common: NodeOptions) -> None:
        """Have these values of the options that every node has."""
        self.common = common.without_state()
        self.force_share = common.force_share
        """Children are asked to share everything."""
        self.discard = common.discard
        """Pass discards on, and let zeroes unmap (``lets_unmap``)."""
        self.detect_zeroes = common.detect_zeroes
        self.cache = {"writeback": True, "direct": common.direct, "no-flush": common.no_flush}

    def lets_unmap(self, parent: Parent) -> bool:
        """Return whether zeroes that a parent writes may unmap; other nodes need ``discard``."""
        if self.discard:
            return True
        release = self.driver.context.env.release
        return not (isinstance(parent, LinkedNode) or behaves(DISCARD_CONCERNS_ROOTS, release))

    def __repr__(self) -> str:
        driver = self.driver.format_name if self.is_open else "not open"
        return f"<BlockNode '{self.node_name}' ({driver})>"

    @property
    def address(self) -> str:
        """The name, or where none was given the place in the graph: the same in each run."""
        if self.node_name[:1] != "#":
            return self.node_name
        place = self._place()
        return (f"{place}.filter" if self.implicit else place) or self.node_name

    def _place(self) -> str:
        """Return where the node is, as its root sees it if one has it."""
        edges = sorted(self.parents, key=lambda edge: isinstance(edge.parent, LinkedNode))
        places = (edge.parent.address_of(edge.name) for edge in edges)
        return next((place for place in places if place), "")

    def address_of(self, child: str) -> str:
        """Return the address of an unnamed child; below a job's filter it is as without that."""
        return self._place() if self.implicit else f"{self.address}.{child}"

    @property
    def open_driver(self) -> BlockDriver | None:
        """The driver, or None while the node is being opened."""
        return self.driver if self.is_open else None

    @property
    def length(self) -> int:
        """Size of the disk in bytes, in whole sectors."""
        return -(-self.driver.length // SECTOR) * SECTOR

    @property
    def read_only(self) -> bool:
        """Whether the node refuses writes now."""
        return self.driver.read_only if self.is_open else self.opening_read_only

    @property
    def inactive(self) -> bool:
        """Whether another process may have the image (``blockdev-set-active``)."""
        return self.driver.inactive if self.is_open else self.opening_inactive

    @property
    def is_writable(self) -> bool:
        """Whether writes can be made now: an inactive node takes none, but is not read-only."""
        return not self.read_only and not self.inactive

    @property
    def device_or_node_name(self) -> str:
        """The name of the device whose root this is, or else the node's (for messages)."""
        return self.root_device_name or self.node_name

    @property
    def root_device_name(self) -> str:
        """The name of the device whose root this is, or ""."""
        names = [edge.parent.device_name for edge in self.parents if edge.parent.device_name]
        return names[-1] if names else ""

    @property
    def backing_child(self) -> Child | None:
        """The edge to the backing file."""
        return self.child_in_role(ChildRole.COW)

    @property
    def filtered_child(self) -> Child | None:
        """The edge to the node that this one filters."""
        return self.child_in_role(ChildRole.FILTERED)

    @property
    def chain_child(self) -> Child | None:
        """The edge to the next layer: filtered or backing."""
        return self.filtered_child or self.backing_child

    @property
    def backing(self) -> BlockNode | None:
        """The backing file."""
        return _end(self.backing_child)

    @property
    def filtered(self) -> BlockNode | None:
        """The node that this one filters."""
        return _end(self.filtered_child)

    @property
    def below(self) -> BlockNode | None:
        """The next layer of the chain: the filtered node or the backing file."""
        return _end(self.chain_child)

    @property
    def primary(self) -> BlockNode | None:
        """The node of the primary child (``file``)."""
        return _end(self.child_in_role(ChildRole.PRIMARY))

    def child_in_role(self, role: ChildRole) -> Child | None:
        """Return the first edge downwards that has one of the bits of ``role``."""
        for child in self.children.values():
            if child.role & role:
                return child
        return None

    def parent_description(self) -> str:
        """Name the node in a message about one of its children."""
        return f"node '{self.node_name}'"

    def check_operation(self, op: BlockOp) -> None:
        """Raise ``QmpError`` if ``op`` is blocked on this node."""
        self.blockers.check(op, self.device_or_node_name)


def _end(child: Child | None) -> BlockNode | None:
    return child.node if child else None
