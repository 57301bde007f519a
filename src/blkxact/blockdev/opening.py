"""A node while it is being opened: what was given for it, and what of that is not used yet.

Options come as a model (``blockdev-add``), or as members, texts maybe, of a name or a command line
(a driver may be missing). A model is passed on to the driver as it is; members become one when the
driver is known (``drivers/driver_options.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from blkxact.block.driver_api import BlockDriver
from blkxact.block.node import BlockNode
from blkxact.block.node_options import MEMBERS, NodeOptions
from blkxact.block.types import ChildRole
from blkxact.drivers.driver_options import driver_options
from blkxact.errors import QmpError
from blkxact.qmp.qdict import flattened, in_qdict_order
from blkxact.runtime.record import Record, made

if TYPE_CHECKING:
    from blkxact.qapi.blockdev import BlockdevOptionsBase

NodeDefinition: TypeAlias = "Mapping[str, Any] | BlockdevOptionsBase"
"""BlockdevOptions: validated, or as members that may lack ``driver``."""
NodeRef: TypeAlias = "str | NodeDefinition | None"
"""BlockdevRefOrNull."""

_MAY_BE_EMPTY: Final = frozenset({"overlap-check"})
"""Objects without members that QEMU takes. All others are options that no driver knows there."""


def members_of(options: NodeDefinition | None) -> dict[str, Any]:
    """Return what was given, by wire names; nodes defined inside are as they were given."""
    if options is None or isinstance(options, Mapping):
        return dict(options or {})
    return options.members()


class Opening(Record):
    """One node that is being opened."""

    node: BlockNode
    model: BlockdevOptionsBase | None
    """What was given, if that was validated."""
    members: dict[str, Any]
    """What was given and is not used yet; at the end, the driver's own options."""
    given_common: dict[str, Any]
    """The members that every node has."""
    common: NodeOptions
    """The same with what was inherited."""
    begins_active: bool
    """What is above it is active; it may be inactive nevertheless."""
    chain: tuple[str, ...]
    """The names of the images above, where the node is in a chain of backing files."""
    unknown: Mapping[str, Any] = made(factory=dict)
    """What was given and the driver does not know; only members that were not validated can be."""
    probed: bool = False
    opened: dict[str, BlockNode] = made(factory=dict)
    """Children, each held."""
    referenced: set[str] = made(factory=set)
    """Children that are only named in the options, and defined elsewhere."""

    @classmethod
    def begin(
        cls,
        options: NodeDefinition | None,
        inherited: Mapping[str, Any],
        chain: tuple[str, ...],
    ) -> Opening:
        """Take the members that every node has; raises ``QmpError``."""
        members = members_of(options)
        given = {name: value for name, value in members.items() if name in MEMBERS}
        given.pop("active", None)  # a state, which the node keeps itself
        common = NodeOptions.take(members, inherited)
        node = BlockNode("", read_only=common.read_only, inactive=not common.active)
        model = None if options is None or isinstance(options, Mapping) else options
        begins_active = inherited.get("active") is not False
        return cls(node, model, members, given, common, begins_active, chain)

    def passed_to(self, name: str, role: ChildRole) -> dict[str, Any]:
        """Return what a child takes over that is defined here.

        ``file`` is opened before the node is known to be inactive, as in QEMU, and is not.
        """
        passed = self.common.passed_to(role)
        if name == "file" and self.begins_active:
            passed.pop("active", None)
        return passed

    def spread_list(self, driver: type[BlockDriver]) -> None:
        """Name the members of a list of children as their edges are named: ``children.0``."""
        if driver.child_list:
            listed = enumerate(self.members.pop(driver.child_list))
            self.members |= {f"{driver.child_list}.{number}": option for number, option in listed}

    def driver_options(self, driver: type[BlockDriver]) -> Any:
        """Return what the driver is opened with, and note it on the node; raises ``QmpError``."""
        options: Any = self.model
        if options is None:
            children: dict[str, Any] = {name: it.node_name for name, it in self.opened.items()}
            if driver.child_list:
                children = {driver.child_list: list(children.values())}
            result = driver_options(driver, self.members, children)
            options, self.members, self.unknown = result.options, result.own, result.unknown
        self.node.options = {"driver": driver.format_name, **self.given_common, **self.members}
        return options

    def check_leftovers(self, driver: type[BlockDriver]) -> None:
        """Refuse what the driver does not take; raises ``QmpError``.

        Containers without members are taken by no driver in QEMU.
        """
        known = {**self.members, "cache": self.given_common.get("cache")}
        empty = {name for name, value in known.items() if value in ({}, [])} - _MAY_BE_EMPTY
        unknown = flattened(self.unknown) | dict.fromkeys(empty)
        for name in in_qdict_order(unknown):
            if driver.is_protocol:
                kind, refuses = "protocol", "doesn't"
            else:
                kind, refuses = "format", "does not"
            raise QmpError(
                f"Block {kind} '{driver.format_name}' {refuses} support the option '{name}'"
            )
